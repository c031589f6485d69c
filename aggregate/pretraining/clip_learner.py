"""What a pretraining changes: networks, objective, optimiser and moving average, one optimiser step at a time.

What is random about the clips is the source's, a function of (seed, step); how they are dealt is a function of the
same here. Dropout draws from torch's generator, whose state is among the tensors that are saved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace

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
from aggregate.pretraining.processes import Processes
from aggregate.training.average import MovingAverage
from aggregate.training.checkpoint import pack_training, unpack_training
from aggregate.training.course import Course
from aggregate.training.hooks import StepDone
from aggregate.training.learner import TEACHER_DECAY
from aggregate.training.parameters import parameter_groups
from pipeline.compute.clips import ClipBatch
from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import keyed, own_random, seeded
from pipeline.errors import InvalidInputError
from pipeline.recipe import LocalGlobalPolicy, PretrainSpec

CLIPS_FORMAT, CLIPS_NDIM = torch.channels_last_3d, 5
"""Of clips and weights: a step takes 0.7 of the time that it takes with colours first, on a CPU."""


class ClipLearner:
    """Networks, objective and optimiser of one pretraining.

    Parameters
    ----------
    encoders : mapping
        Stream -> (network, its channels), in the order of the recipe.
    spec : PretrainSpec
    course : Course
    device : torch.device
    processes : Processes
    num_videos : int
        Of the source.

    Attributes
    ----------
    main : ClipModel
        The network of the first stream.
    average : MovingAverage or None
    chance : float or None
        What the loss is where nothing is told apart, in the last step.
    """

    def __init__(
        self,
        encoders: Mapping[str, tuple[nn.Module, int]],
        spec: PretrainSpec,
        course: Course,
        device: torch.device,
        processes: Processes,
        num_videos: int,
    ) -> None:
        self.spec, self.course, self.device, self.processes = spec, course, device, processes
        self.chance: float | None = None
        self.objective = build_objective(spec.objective)
        if len(encoders) < self.objective.num_streams:
            raise InvalidInputError(
                f"expected {self.objective.num_streams} streams for the objective {spec.objective.kind}, found "
                f"{', '.join(encoders)}; name them under `streams`"
            )
        if self.objective.masks:
            raise self._wrong_objective()
        used = list(encoders.items())[: self.objective.num_streams]
        with own_random(keyed(spec.seed), device):
            models = [ClipModel(processes.prepare(encoder, device), dim, spec.head) for _, (encoder, dim) in used]
            self.models = nn.ModuleList(models).to(device)
            for weight in self.models.parameters():
                if weight.ndim == CLIPS_NDIM:
                    weight.data = weight.data.contiguous(memory_format=CLIPS_FORMAT)
            self.streams = [stream for stream, _ in used]
            names = [MAIN_STREAM, *(f"stream{k}" for k in range(1, len(models)))]
            self.networks: dict[str, ClipModel] = dict(zip(names, models, strict=True))
            with self._heads_suffice():
                self.objective.expect(num_videos)
                self.objective.bind({key: as_set_model(model) for key, model in self.networks.items()})
            self.objective.to(device)
        self.main = models[0]
        decay = spec.ema if spec.ema is not None else TEACHER_DECAY if self.objective.needs_teacher else None
        self.average = None if decay is None else MovingAverage(self.main, decay)
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

    @property
    def kept(self) -> ClipModel:
        """What a pretraining keeps of the first stream: the moving average where there is one."""
        return self.main if self.average is None else self.average.model

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return all that is optimised, by name."""
        return [*self.models.named_parameters(), *self.objective.named_parameters()]

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is optimised."""
        return [p for _, p in self.named_parameters()]

    def step(self, number: int, batch: ClipBatch) -> StepDone:
        """Take one optimiser step.

        Parameters
        ----------
        number : int
            Steps done before.
        batch : ClipBatch
            Of this process; the gradient is that of the batches of all.
        """
        warmup = self.spec.warmup_fraction * self.course.total_steps
        rate = self.spec.learning_rate * warm_up_cosine(number, self.course.total_steps, warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        result = self._score(batch, number)
        result.loss.backward()
        self.processes.average(self.parameters())
        total, logs = result.loss.detach(), dict(result.logs)
        self.chance = result.chance
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters(), self.spec.clip_norm)
            logs["gradient_norm"] = norm.detach()
            total = torch.where(torch.isfinite(norm), total, torch.nan)
        if self.device.type == "cuda" or bool(torch.isfinite(total)):
            self.optimiser.step()
        return StepDone(number + 1, total, logs, rate, batch, batch.num_valid * self.processes.number)

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
                    told = gather(self.average.model(batch.clips[self.streams[0]], batch.valid)).float()
                    teacher[MAIN_STREAM] = in_other_stream(self.average.model, sets, told)
            inputs = ObjectiveInput(online, teacher, step, step / self.course.total_steps)
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

    def explain(self, step: StepDone, logs: Mapping[str, Tensor]) -> str:
        """Say why a loss or a weight is not finite, and what to change."""
        broken = [name for name, p in self.named_parameters() if not bool(torch.isfinite(p).all())]
        parts = [name for name, value in logs.items() if not bool(torch.isfinite(value).all())]
        cause = f"weights of {broken[0]} ({len(broken)} in all)" if broken else ", ".join(parts) or "a gradient"
        return f"{cause} is not finite; lower learning_rate, set clip_norm (1.0 is common), or train with amp: off"

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors."""
        average = None if self.average is None else self.average.model
        return pack_training(self.models, self.objective, self.optimiser, average, self.device)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put everything from :meth:`tensors` back in place."""
        average = None if self.average is None else self.average.model
        unpack_training(tensors, self.models, self.objective, self.optimiser, average, self.device)
