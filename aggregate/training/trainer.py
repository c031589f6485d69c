"""The training loop: sets, mask, encode, score, step; the same to the last digit when resumed on a CPU.

Everything random about the data (order, sets, masks) is a function of (seed,
epoch or step); dropout draws from torch's generator, whose state is in the checkpoint.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aggregate.data.batch import CropBatch, SetBatch, draw_mask, in_stream, make_set_batch
from aggregate.data.loader import BatchSource, num_batches
from aggregate.data.sets import Splitter, disjoint_sets
from aggregate.network.model import ScaleModel
from aggregate.objectives import Objective, ObjectiveInput, ObjectiveResult, build_objective
from aggregate.objectives.interface import MAIN_STREAM
from aggregate.training.checkpoint import CheckpointFolder, pack_training, unpack_training
from aggregate.training.diagnose import explain_non_finite
from aggregate.training.encode import encode_sets
from aggregate.training.metrics import MetricsSink, Record
from aggregate.training.parameters import parameter_groups
from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import keyed, own_random, seeded
from pipeline.errors import InvalidInputError, OutOfMemoryError, TrainingError
from pipeline.events import OnEvent, Progress, StageStarted, ignore
from pipeline.recipe import TrainSpec

PROGRESS_SECONDS = 0.5
CHECKPOINT_SECONDS = 600.0
MAX_RECORDS = 2000
SCORED_WITHIN_STEPS = 50
"""In so many steps, and one epoch, something must have been scored."""
GPU_CHECK_STEPS = 20
"""Steps between two looks at the loss on a GPU: each look waits for the device."""
TEACHER_DECAY = 0.996


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes
    ----------
    model : ScaleModel
        In eval mode; the moving average where the recipe asks for one.
    online : ScaleModel
        The network that was optimised (the same object without a moving average).
    history : tuple of mapping
        step, epoch, loss, lr and each objective's figures.
    num_steps, resumed_from : int
        Optimiser steps in all, and the step this run began at.
    seconds : float
    others : tuple of ScaleModel
        Networks of further streams.
    chance : float or None
        What the loss is where nothing is told apart, in the last step.
    """

    model: ScaleModel
    online: ScaleModel
    history: tuple[Record, ...]
    num_steps: int
    resumed_from: int
    seconds: float
    others: tuple[ScaleModel, ...] = ()
    chance: float | None = None


class Trainer:
    """Trains a :class:`ScaleModel` from a source of batches.

    Parameters
    ----------
    source : BatchSource
    spec : TrainSpec
        `crops`, `backbone` and `rows` are the caller's business; the rest is used here.
    device : torch.device
    splitter, objective : optional
        Instead of the recipe's; a neighbour of SCALE brings its own.
    checkpoints : CheckpointFolder, optional
        Where to save and to resume from.
    metrics : sequence of MetricsSink
    on_event : callable
    """

    def __init__(
        self,
        source: BatchSource,
        spec: TrainSpec,
        *,
        device: torch.device,
        splitter: Splitter | None = None,
        objective: Objective | None = None,
        checkpoints: CheckpointFolder | None = None,
        metrics: Sequence[MetricsSink] = (),
        on_event: OnEvent = ignore,
    ) -> None:
        self.source = source
        self.spec = spec
        self.device = device
        self.checkpoints = checkpoints
        self.metrics = metrics
        self.on_event = on_event
        batches = num_batches(source.num_videos, spec.batch_size)
        self.accumulate = min(spec.accumulate, batches)
        self.steps_per_epoch = batches // self.accumulate
        self.total_steps = self.steps_per_epoch * spec.epochs
        self.record_every = max(1, self.total_steps // MAX_RECORDS)
        self._scored_by = min(self.total_steps, max(self.steps_per_epoch, SCORED_WITHIN_STEPS))
        self.history: list[Record] = []
        self.chance: float | None = None
        with own_random(keyed(spec.seed), device):
            self.model = self._network(0)
            self.objective = objective or build_objective(spec.objective)
            dims = source.input_dims
            if len(dims) < self.objective.num_streams:
                raise InvalidInputError(
                    f"expected {self.objective.num_streams} feature sets of the same crops for the objective "
                    f"{spec.objective.kind}, found {len(dims)}; name them under `features`"
                )
            # Networks of streams that nothing compares would be trained for nothing.
            others = {f"stream{i}": self._network(i) for i in range(1, self.objective.num_streams)}
            self.others = nn.ModuleDict(others)
            self.networks = {MAIN_STREAM: self.model, **others}
            self.objective.bind(self.networks)
            self.objective.to(device)
        self.splitter = splitter or self.objective.splitter(spec.set_size) or disjoint_sets(spec.set_size)
        decay = spec.ema if spec.ema is not None else TEACHER_DECAY if self.objective.needs_teacher else None
        self.decay = decay
        self.average = None if decay is None else copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimiser = torch.optim.AdamW(
            parameter_groups(
                [
                    *self.model.named_parameters(),
                    *self.objective.named_parameters(),
                    *self.others.named_parameters(),
                ],
                spec.weight_decay,
            ),
            lr=spec.learning_rate,
            fused=True,
        )
        self.autocast = spec.amp == "bf16" or (spec.amp == "auto" and device.type == "cuda")
        self.encoder: Callable[..., tuple[Tensor, Tensor]] = self.model
        if spec.compile == "on" or (spec.compile == "auto" and compile_wins(device, self.total_steps)):
            self.encoder = torch.compile(self.model, dynamic=True)

    def _network(self, stream: int) -> ScaleModel:
        model = ScaleModel(self.source.input_dims[stream], self.spec.model).to(self.device)
        if self.spec.normalise == "train":
            model.standardise_by(*self.source.channel_statistics(stream))
        return model

    def fit(self) -> TrainResult:
        """Run all epochs, from the newest checkpoint where there is one.

        Raises
        ------
        TrainingError
            When the loss or a gradient is not finite (says at which step and why), or nothing is ever scored.
        OutOfMemoryError
            When the device has no room for one batch.
        """
        started = time.monotonic()
        with own_random(keyed(self.spec.seed + 1), self.device):
            first = self._resume()
            for sink in self.metrics:
                sink.restart(self.history)
            self.on_event(StageStarted("train", self.total_steps, "steps", self._describe(first)))
            try:
                self._run(first)
            except torch.cuda.OutOfMemoryError as err:
                raise OutOfMemoryError(
                    f"expected room for a batch of {self.spec.batch_size} videos on {self.device}, found none; "
                    "halve batch_size and double accumulate"
                ) from err
            finally:
                for sink in self.metrics:
                    sink.close()
        chosen = self.model if self.average is None else self.average
        return TrainResult(
            chosen.eval(),
            self.model.eval(),
            tuple(self.history),
            self.total_steps,
            first,
            time.monotonic() - started,
            tuple(network.eval() for network in list(self.networks.values())[1:]),
            self.chance,
        )

    def _run(self, first: int) -> None:
        self.model.train()
        step, unchecked = first, 0
        scored = torch.zeros((), device=self.device)
        last_event = last_saved = time.monotonic()
        since = first
        for epoch in range(first // self.steps_per_epoch, self.spec.epochs):
            done_here = step - epoch * self.steps_per_epoch
            micro = iter(self.source.batches(epoch, self.spec.batch_size, skip=done_here * self.accumulate))
            for _ in range(done_here, self.steps_per_epoch):
                loss, logs, rate = self._step(step, micro)
                step += 1
                scored += loss.abs()
                if step == self._scored_by:
                    self._check_scored(scored, first)
                now = time.monotonic()
                unchecked += 1
                if self.device.type != "cuda" or unchecked >= GPU_CHECK_STEPS or step == self.total_steps:
                    if not bool(torch.isfinite(loss)):
                        raise self._non_finite(step, float(loss), logs)
                    unchecked = 0
                if step % self.record_every == 0 or step == self.total_steps:
                    self._record(step, epoch, loss, logs, rate)
                if now - last_event >= PROGRESS_SECONDS or step == self.total_steps:
                    per_s = (step - since) * self._videos_per_step / max(now - last_event, 1e-9)
                    values = {"loss": float(loss), "lr": rate, "videos_per_s": per_s}
                    self.on_event(Progress("train", step, self.total_steps, values))
                    last_event, since = now, step
                ends_epoch = step % self.steps_per_epoch == 0
                due = ends_epoch and (epoch + 1) % self.spec.checkpoint_epochs == 0
                if (due or now - last_saved >= CHECKPOINT_SECONDS) and step < self.total_steps:
                    self._save(step, loss)
                    last_saved = now
        if first < self.total_steps:
            self._check_weights(step, loss)

    def _step(self, step: int, micro: Iterator[CropBatch]) -> tuple[Tensor, dict[str, Tensor], float]:
        rate = self.spec.learning_rate * warm_up_cosine(
            step, self.total_steps, self.spec.warmup_fraction * self.total_steps
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        for part in range(self.accumulate):
            crops = next(micro)
            self._batch = self._make_batch(crops, step * self.accumulate + part)
            result = self._score(self._batch, crops, step)
            (result.loss / self.accumulate).backward()
            total = total + result.loss.detach() / self.accumulate
            self.chance = result.chance
            for name, value in result.logs.items():
                logs[name] = logs.get(name, torch.zeros_like(value)) + value / self.accumulate
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self._parameters(), self.spec.clip_norm)
            logs["gradient_norm"] = norm.detach()
            total = torch.where(torch.isfinite(norm), total, torch.nan)
        if self.device.type == "cuda" or bool(torch.isfinite(total)):
            self.optimiser.step()
            self._update_average()
        return total, logs, rate

    def _make_batch(self, crops: CropBatch, number: int) -> SetBatch:
        generator = seeded(keyed(self.spec.seed, 1, number))
        sets = self.splitter(crops.valid, crops.raw_geometry, generator)
        ratio = self.spec.objective.hidden_share if self.objective.masks else 0.0
        return make_set_batch(crops, sets, draw_mask(sets.valid, ratio, generator), self.device)

    def _score(self, batch: SetBatch, crops: CropBatch, step: int) -> ObjectiveResult:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            encoded = encode_sets(self.model, batch, tokens=self.objective.needs_tokens, encoder=self.encoder)
            online = {MAIN_STREAM: encoded}
            for (name, network), pool in zip(list(self.networks.items())[1:], crops.more_features, strict=False):
                other = in_stream(batch, pool)
                online[name] = encode_sets(network, other, tokens=self.objective.needs_tokens)
            teacher = {}
            if self.objective.needs_teacher:
                assert self.average is not None
                with torch.no_grad():
                    teacher[MAIN_STREAM] = encode_sets(self.average, batch, tokens="all", masked=False)
            inputs = ObjectiveInput(online, teacher, step, step / self.total_steps)
            result: ObjectiveResult = self.objective(inputs)
        return result

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.model.parameters(), *self.objective.parameters(), *self.others.parameters()]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is not None and self.decay is not None:
            for kept, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1.0 - self.decay)

    def _record(self, step: int, epoch: int, loss: Tensor, logs: dict[str, Tensor], rate: float) -> None:
        names = list(logs)
        values = torch.stack([loss.detach(), *(logs[n].float() for n in names)]).tolist()
        if values[0] != values[0] or values[0] in (float("inf"), float("-inf")):
            raise self._non_finite(step, values[0], logs)
        # A figure without a value (accuracy of a batch without masked crops) is null: NaN is no JSON.
        figures = {n: (v if v == v else None) for n, v in zip(names, values[1:], strict=True)}
        record: Record = {"step": step, "epoch": epoch, "loss": values[0], "lr": rate, **figures}
        self.history.append(record)
        for sink in self.metrics:
            sink.write(record)

    def _non_finite(self, step: int, loss: float, logs: dict[str, Tensor]) -> TrainingError:
        cause = explain_non_finite(self.model, self._batch, logs)
        return TrainingError(
            f"expected a finite loss and finite weights, found loss {loss} at step {step} of {self.total_steps} "
            f"(epoch {(step - 1) // self.steps_per_epoch}): {cause}"
        )

    def _check_scored(self, scored: Tensor, first: int) -> None:
        """Refuse to go on where no loss was anything but zero: such a model is an untrained one."""
        if first == 0 and float(scored) == 0.0:
            raise TrainingError(
                f"expected something to score, found a loss of zero in all of the first {self._scored_by} steps of "
                f"objective {self.spec.objective.kind}: set contrast needs videos with at least two valid crops, "
                "masked crops a mask_ratio above 0"
            )

    def _check_weights(self, step: int, loss: Tensor) -> None:
        """Refuse to keep weights that a gradient has broken, or (on a GPU, where the look is due later) a loss."""
        finite = torch.stack([torch.isfinite(p).all() for p in self._parameters()]).all()
        if not bool(finite & torch.isfinite(loss)):
            raise self._non_finite(step, float(loss), {})

    def _save(self, step: int, loss: Tensor) -> None:
        if self.checkpoints is None:
            return
        self._check_weights(step, loss)
        tensors = pack_training(self.model, self.objective, self.optimiser, self.average, self.device, self.others)
        self.checkpoints.save(step, tensors, {"history": self.history, "total_steps": self.total_steps})

    def _resume(self) -> int:
        found = self.checkpoints.load_latest() if self.checkpoints is not None else None
        if found is None or found.state.get("total_steps") != self.total_steps:
            return 0
        unpack_training(
            found.tensors, self.model, self.objective, self.optimiser, self.average, self.device, self.others
        )
        self.history = list(found.state["history"])
        return int(found.state["step"])

    @property
    def _videos_per_step(self) -> int:
        return min(self.spec.batch_size, self.source.num_videos) * self.accumulate

    def _describe(self, first: int) -> str:
        resumed = f", resumed at step {first}" if first else ""
        return f"{self.spec.name}: {self.source.num_videos} videos, {self.spec.epochs} epochs on {self.device}{resumed}"


def compile_wins(device: torch.device, total_steps: int) -> bool:
    """Whether compiling (tens of seconds) pays: on a GPU with Triton, over thousands of steps."""
    if device.type != "cuda" or total_steps < 2000:
        return False
    return importlib.util.find_spec("triton") is not None
