"""The loop of a pretraining: encode clips, deal them into sets, score, step; exact when resumed on a CPU.

What is random about the clips is the source's, a function of (seed, step); how they are dealt is a function of the
same here. Dropout draws from torch's generator, whose state is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from aggregate.data.sets import Splitter, disjoint_sets
from aggregate.objectives import ObjectiveInput, ObjectiveResult, build_objective
from aggregate.objectives.interface import MAIN_STREAM
from aggregate.pretraining.clip_model import (
    ClipModel,
    ClipModelSizes,
    as_set_model,
    deal_clips,
    each_its_own,
    encoded_sets,
    in_other_stream,
)
from aggregate.pretraining.neighbours import knn_accuracy
from aggregate.pretraining.processes import ALONE, Processes
from aggregate.training.checkpoint import CheckpointFolder, pack_training, unpack_training
from aggregate.training.metrics import MetricsSink, Record
from aggregate.training.parameters import parameter_groups
from pipeline.compute.clips import ClipBatch, ClipSource
from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import keyed, own_random, seeded
from pipeline.errors import InvalidInputError, OutOfMemoryError, TrainingError
from pipeline.events import OnEvent, Progress, StageStarted, ignore
from pipeline.recipe import LocalGlobalPolicy, PretrainSpec

PROGRESS_SECONDS = 0.5
CHECKPOINT_SECONDS = 600.0
MAX_RECORDS = 2000
GPU_CHECK_STEPS = 20
TEACHER_DECAY = 0.996


@dataclass(frozen=True)
class PretrainResult:
    """A finished pretraining.

    Attributes
    ----------
    encoder : nn.Module
        Of the first stream, in eval mode; the moving average's where there is one.
    history : tuple of mapping
        step, epoch, loss, lr, each objective's figures; `knn_top1` where the probe looked.
    num_steps, resumed_from : int
    seconds : float
        Of the steps of this run.
    num_clips : int
        Encoded in this run, by all processes.
    chance : float or None
        What the loss is where nothing is told apart.
    """

    encoder: nn.Module
    history: tuple[Record, ...]
    num_steps: int
    resumed_from: int
    seconds: float
    num_clips: int
    chance: float | None


class Pretrainer:
    """Trains networks on clips.

    Parameters
    ----------
    name : str
        For people.
    source : ClipSource
    encoders : mapping
        Stream -> (network, its channels), in the order of the recipe.
    spec : PretrainSpec
    device : torch.device
    processes : Processes
    checkpoints : CheckpointFolder, optional
    metrics : sequence of MetricsSink
    on_first_batch : callable, optional
        Gets the first batch of a training from its beginning.
    on_event : callable
    """

    def __init__(
        self,
        name: str,
        source: ClipSource,
        encoders: Mapping[str, tuple[nn.Module, int]],
        spec: PretrainSpec,
        *,
        device: torch.device,
        processes: Processes = ALONE,
        checkpoints: CheckpointFolder | None = None,
        metrics: Sequence[MetricsSink] = (),
        on_first_batch: Callable[[ClipBatch], None] | None = None,
        on_event: OnEvent = ignore,
    ) -> None:
        self.name, self.source, self.spec, self.device, self.processes = name, source, spec, device, processes
        self.checkpoints, self.metrics, self.on_event = checkpoints, metrics, on_event
        self.on_first_batch = on_first_batch
        self.total_steps = source.steps_per_epoch * spec.epochs
        self.record_every = max(1, self.total_steps // MAX_RECORDS)
        self.history: list[Record] = []
        self.chance: float | None = None
        self.objective = build_objective(spec.objective)
        if len(encoders) < self.objective.num_streams:
            raise InvalidInputError(
                f"expected {self.objective.num_streams} streams for the objective {spec.objective.kind}, found "
                f"{', '.join(encoders)}; name them under `streams`"
            )
        if self.objective.masks:
            raise self._wrong_objective()
        head = spec.head
        used = list(encoders.items())[: self.objective.num_streams]
        with own_random(keyed(spec.seed), device):
            models = [
                ClipModel(processes.prepare(encoder, device), dim, head.hidden_dim, head.projection_dim)
                for _, (encoder, dim) in used
            ]
            self.models = nn.ModuleList(models).to(device)
            self.streams = [stream for stream, _ in used]
            names = [MAIN_STREAM, *(f"stream{k}" for k in range(1, len(models)))]
            self.networks: dict[str, ClipModel] = dict(zip(names, models, strict=True))
            with self._heads_suffice():
                self.objective.bind({key: as_set_model(model) for key, model in self.networks.items()})
            self.objective.to(device)
        self.main = models[0]
        decay = spec.ema if spec.ema is not None else TEACHER_DECAY if self.objective.needs_teacher else None
        self.decay = decay
        self.average = None if decay is None else copy.deepcopy(self.main).requires_grad_(False).eval()
        self.splitter = self._splitter()
        self.optimiser = self._optimiser()
        self.autocast = spec.amp == "bf16" or (spec.amp == "auto" and device.type == "cuda")

    def _splitter(self) -> Splitter:
        if isinstance(self.spec.clips, LocalGlobalPolicy):
            return each_its_own()
        return self.objective.splitter(self.spec.set_size) or disjoint_sets(self.spec.set_size)

    def _optimiser(self) -> torch.optim.Optimizer:
        spec = self.spec
        named = [*self.models.named_parameters(), *self.objective.named_parameters()]
        groups = parameter_groups(named, spec.weight_decay)
        if spec.optimiser == "sgd":
            return torch.optim.SGD(groups, lr=spec.learning_rate, momentum=spec.momentum)
        return torch.optim.AdamW(groups, lr=spec.learning_rate, fused=True)

    def fit(self) -> PretrainResult:
        """Run all epochs, from the newest checkpoint where there is one.

        Raises
        ------
        TrainingError
            When the loss or a weight is not finite: says at which step, and what to change.
        OutOfMemoryError
            When the device has no room for one batch.
        """
        with own_random(keyed(self.spec.seed + 1), self.device):
            first = self._resume()
            for sink in self.metrics:
                sink.restart(self.history)
            resumed = f", resumed at step {first}" if first else ""
            text = f"{self.name}: {self.source.num_videos} videos, {self.spec.epochs} epochs on {self.device}{resumed}"
            self.on_event(StageStarted("pretrain", self.total_steps, "steps", text))
            started = time.monotonic()
            try:
                num_clips = self._run(first)
            except torch.cuda.OutOfMemoryError as err:
                raise OutOfMemoryError(
                    f"expected room for {self.spec.batch_size} videos of {self.spec.views_per_step} clips on "
                    f"{self.device}, found none; halve batch_size, or set checkpointing: true"
                ) from err
            finally:
                for sink in self.metrics:
                    sink.close()
        kept = self.main if self.average is None else self.average
        seconds = time.monotonic() - started
        return PretrainResult(
            kept.encoder.eval(), tuple(self.history), self.total_steps, first, seconds, num_clips, self.chance
        )

    def _run(self, first: int) -> int:
        self.models.train()
        step, unchecked, num_clips = first, 0, 0
        last_event = last_saved = time.monotonic()
        since = 0
        loss = torch.zeros((), device=self.device)
        per_epoch = self.source.steps_per_epoch
        for batch in self.source.batches(first, self.total_steps):
            if step == 0 and self.on_first_batch is not None:
                self.on_first_batch(batch)
            loss, logs, rate = self._step(step, batch)
            num_clips += batch.num_valid * self.processes.number
            step, unchecked = step + 1, unchecked + 1
            is_last = step == self.total_steps
            if self.device.type != "cuda" or unchecked >= GPU_CHECK_STEPS or is_last:
                if not bool(torch.isfinite(loss)):
                    raise self._not_finite(step, float(loss), logs)
                unchecked = 0
            probed = self._probe(step)
            if step % self.record_every == 0 or is_last or probed:
                self._record(step, loss, logs, rate, probed)
            now = time.monotonic()
            if now - last_event >= PROGRESS_SECONDS or is_last:
                per_s = (num_clips - since) / max(now - last_event, 1e-9)
                values = {"loss": float(loss), "lr": rate, "clips_per_s": per_s}
                self.on_event(Progress("pretrain", step, self.total_steps, values))
                last_event, since = now, num_clips
            due = step % (per_epoch * self.spec.checkpoint_epochs) == 0
            if (due or now - last_saved >= CHECKPOINT_SECONDS) and not is_last:
                self._save(step, loss)
                last_saved = now
        if first < self.total_steps:
            self._check_weights(step, loss)
        return num_clips

    def _step(self, step: int, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor], float]:
        warmup = self.spec.warmup_fraction * self.total_steps
        rate = self.spec.learning_rate * warm_up_cosine(step, self.total_steps, warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        result = self._score(batch, step)
        result.loss.backward()
        self.processes.average([p for _, p in self._named()])
        total, logs = result.loss.detach(), dict(result.logs)
        self.chance = result.chance
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_([p for _, p in self._named()], self.spec.clip_norm)
            logs["gradient_norm"] = norm.detach()
            total = torch.where(torch.isfinite(norm), total, torch.nan)
        if self.device.type == "cuda" or bool(torch.isfinite(total)):
            self.optimiser.step()
            self._update_average()
        return total, logs, rate

    def _score(self, batch: ClipBatch, step: int) -> ObjectiveResult:
        gather = self.processes.gather
        generator = seeded(keyed(self.spec.seed, 1, step))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            features = [
                gather(model(batch.clips[stream], batch.valid))
                for model, stream in zip(self.networks.values(), self.streams, strict=True)
            ]
            whole = self._whole(batch)
            sets = deal_clips(features[0].float(), whole, self.splitter, generator)
            models = list(self.networks.items())
            online = {models[0][0]: encoded_sets(models[0][1], sets)}
            for (name, model), other in zip(models[1:], features[1:], strict=True):
                online[name] = in_other_stream(model, sets, other.float())
            teacher = {}
            if self.objective.needs_teacher:
                assert self.average is not None
                with torch.no_grad():
                    told = gather(self.average(batch.clips[self.streams[0]], batch.valid)).float()
                    teacher[MAIN_STREAM] = in_other_stream(self.average, sets, told)
            inputs = ObjectiveInput(online, teacher, step, step / self.total_steps)
            with self._heads_suffice():
                result: ObjectiveResult = self.objective(inputs)
        return result

    @contextlib.contextmanager
    def _heads_suffice(self) -> Iterator[None]:
        """Say so where an objective asks for parts of a set transformer, which a backbone does not have."""
        try:
            yield
        except AttributeError as err:
            if getattr(err, "obj", None) is not None and isinstance(err.obj, ClipModel | ClipModelSizes):
                raise self._wrong_objective() from err
            raise

    def _wrong_objective(self) -> InvalidInputError:
        return InvalidInputError(
            f"expected an objective that compares clips, found {self.spec.objective.kind}, which asks for a set "
            "transformer; pretrain with ntxent, cvrl, vicc, vicreg, barlow_twins, coclr, svt or speed"
        )

    def _whole(self, batch: ClipBatch) -> ClipBatch:
        """Return what is known of the clips of all processes; pixels stay where they are."""
        gather = self.processes.gather_plain
        return replace(
            batch,
            raw_geometry=gather(batch.raw_geometry),
            valid=gather(batch.valid),
            video_ids=gather(batch.video_ids),
            group_ids=gather(batch.group_ids),
        )

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        return [*self.models.named_parameters(), *self.objective.named_parameters()]

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is not None and self.decay is not None:
            for kept, new in zip(self.average.parameters(), self.main.parameters(), strict=True):
                kept.lerp_(new, 1.0 - self.decay)
            for held, found in zip(self.average.buffers(), self.main.buffers(), strict=True):
                held.copy_(found)

    def _probe(self, step: int) -> dict[str, float]:
        """Look at the held-out groups where it is time to; the first process alone."""
        every = self.spec.probe_epochs
        if every is None or not self.processes.is_first:
            return {}
        if step % (self.source.steps_per_epoch * every) and step != self.total_steps:
            return {}
        kept = self.main if self.average is None else self.average
        found = knn_accuracy(self.source, kept, self.streams[0])
        return {} if found is None else {"knn_top1": found}

    def _record(
        self, step: int, loss: Tensor, logs: Mapping[str, Tensor], rate: float, more: Mapping[str, float]
    ) -> None:
        values = torch.stack([loss.detach(), *(value.float() for value in logs.values())]).tolist()
        figures = {name: (v if v == v else None) for name, v in zip(logs, values[1:], strict=True)}
        epoch = (step - 1) // self.source.steps_per_epoch
        record: Record = {"step": step, "epoch": epoch, "loss": values[0], "lr": rate, **figures, **more}
        self.history.append(record)
        for sink in self.metrics:
            sink.write(record)

    def _not_finite(self, step: int, loss: float, logs: Mapping[str, Tensor]) -> TrainingError:
        broken = [name for name, p in self._named() if not bool(torch.isfinite(p).all())]
        parts = [name for name, value in logs.items() if not bool(torch.isfinite(value).all())]
        cause = f"weights of {broken[0]} ({len(broken)} in all)" if broken else ", ".join(parts) or "a gradient"
        return TrainingError(
            f"{self.name}: expected a finite loss and finite weights, found loss {loss} at step {step} of "
            f"{self.total_steps}: {cause} is not finite; lower learning_rate, set clip_norm (1.0 is common), or train "
            "with amp: off"
        )

    def _check_weights(self, step: int, loss: Tensor) -> None:
        finite = torch.stack([torch.isfinite(p).all() for _, p in self._named()]).all()
        if not bool(finite & torch.isfinite(loss)):
            raise self._not_finite(step, float(loss), {})

    def _save(self, step: int, loss: Tensor) -> None:
        self._check_weights(step, loss)
        if self.checkpoints is None or not self.processes.is_first:
            return
        tensors = pack_training(self.models, self.objective, self.optimiser, self.average, self.device)
        self.checkpoints.save(step, tensors, {"history": self.history, "total_steps": self.total_steps})

    def _resume(self) -> int:
        found = self.checkpoints.load_latest() if self.checkpoints is not None else None
        if found is None or found.state.get("total_steps") != self.total_steps:
            return 0
        unpack_training(found.tensors, self.models, self.objective, self.optimiser, self.average, self.device)
        self.history = list(found.state["history"])
        return int(found.state["step"])
