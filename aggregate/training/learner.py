"""What a training changes: networks, objective, optimiser and moving average, one optimiser step at a time.

Everything random about a step (sets, masks) is a function of (seed, step);
dropout draws from torch's generator, whose state is among the tensors that are saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from aggregate.data.batch import CropBatch, SetBatch, draw_mask, in_stream, make_set_batch
from aggregate.data.loader import BatchSource
from aggregate.data.sets import Splitter, disjoint_sets
from aggregate.network.model import ScaleModel
from aggregate.objectives import Objective, ObjectiveInput, ObjectiveResult, build_objective
from aggregate.objectives.interface import MAIN_STREAM
from aggregate.training.average import MovingAverage
from aggregate.training.checkpoint import pack_training, unpack_training
from aggregate.training.compiling import Encoder, compiled_encoder
from aggregate.training.course import Course
from aggregate.training.diagnose import explain_non_finite
from aggregate.training.encode import encode_sets
from aggregate.training.hooks import StepDone
from aggregate.training.parameters import parameter_groups
from pipeline.compute.schedule import warm_up_cosine
from pipeline.compute.seeds import keyed, own_random, seeded
from pipeline.errors import InvalidInputError
from pipeline.recipe import TrainSpec

TEACHER_DECAY = 0.996


class Learner:
    """Networks, objective and optimiser of one training.

    Parameters
    ----------
    source : BatchSource
        Asked for channels, and for statistics of the inputs where they are standardised.
    spec : TrainSpec
    course : Course
    device : torch.device
    splitter, objective : optional
        Instead of the recipe's.

    Attributes
    ----------
    model : ScaleModel
        The network of the main stream.
    networks : mapping
        Stream -> network, in the order of the recipe's features; `others` holds those beyond the main one.
    average : MovingAverage or None
    chance : float or None
        What the loss is where nothing is told apart, in the last step.
    """

    def __init__(
        self,
        source: BatchSource,
        spec: TrainSpec,
        course: Course,
        device: torch.device,
        splitter: Splitter | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.spec, self.course, self.device = spec, course, device
        self.chance: float | None = None
        self._videos_a_step = min(spec.batch_size, source.num_videos) * course.accumulate
        with own_random(keyed(spec.seed), device):
            self.model = self._network(source, 0)
            self.objective = objective or build_objective(spec.objective)
            dims = source.input_dims
            wanted = self.objective.num_streams + self.objective.needs_negatives
            if len(dims) < wanted:
                raise InvalidInputError(
                    f"expected {wanted} feature sets of the same crops for the objective "
                    f"{spec.objective.kind}, found {len(dims)}; name them under `features`"
                )
            if self.objective.needs_negatives and dims[-1] != dims[self.objective.num_streams - 1]:
                raise InvalidInputError(
                    f"expected negatives of {dims[self.objective.num_streams - 1]} channels, as the stream that they "
                    f"stand beside, found {dims[-1]}; name a feature set of the same backbone"
                )
            # Networks of streams that nothing compares would be trained for nothing.
            others = {f"stream{i}": self._network(source, i) for i in range(1, self.objective.num_streams)}
            self.others = nn.ModuleDict(others)
            self.networks: Mapping[str, ScaleModel] = {MAIN_STREAM: self.model, **others}
            self.objective.expect(source.num_videos)
            self.objective.bind(self.networks)
            self.objective.to(device)
        self.splitter = splitter or self.objective.splitter(spec.set_size) or disjoint_sets(spec.set_size)
        decay = spec.ema if spec.ema is not None else TEACHER_DECAY if self.objective.needs_teacher else None
        self.average = None if decay is None else MovingAverage(self.model, decay)
        named = [p for part in self._trained for p in part.named_parameters()]
        self.optimiser = torch.optim.AdamW(
            parameter_groups(named, spec.weight_decay), lr=spec.learning_rate, fused=True
        )
        self.autocast = spec.amp == "bf16" or (spec.amp == "auto" and device.type == "cuda")
        self.encoder: Encoder = self.model
        if spec.compile == "on":
            self.encoder = compiled_encoder(self.model)

    def _network(self, source: BatchSource, stream: int) -> ScaleModel:
        model = ScaleModel(source.input_dims[stream], self.spec.model).to(self.device)
        if self.spec.normalise == "train":
            model.standardise_by(*source.channel_statistics(stream))
        return model

    @property
    def _trained(self) -> tuple[nn.Module, ...]:
        return self.model, self.objective, self.others

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is optimised."""
        return [p for part in self._trained for p in part.parameters()]

    def step(self, number: int, micro: Iterator[CropBatch]) -> StepDone:
        """Take one optimiser step.

        Parameters
        ----------
        number : int
            Steps done before.
        micro : iterator of CropBatch
            As many batches as are accumulated are taken from it.
        """
        accumulate = self.course.accumulate
        warmup = self.spec.warmup_fraction * self.course.total_steps
        rate = self.spec.learning_rate * warm_up_cosine(number, self.course.total_steps, warmup)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        logs: dict[str, Tensor] = {}
        for part in range(accumulate):
            crops = next(micro)
            batch = self.make_batch(crops, number * accumulate + part)
            result = self.score(batch, crops, number)
            (result.loss / accumulate).backward()
            total = total + result.loss.detach() / accumulate
            self.chance = result.chance
            for name, value in result.logs.items():
                logs[name] = logs.get(name, torch.zeros_like(value)) + value / accumulate
        if self.spec.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(self.parameters(), self.spec.clip_norm)
            logs["gradient_norm"] = norm.detach()
            total = torch.where(torch.isfinite(norm), total, torch.nan)
        if self.device.type == "cuda" or bool(torch.isfinite(total)):
            self.optimiser.step()
        return StepDone(number + 1, total, logs, rate, batch, self._videos_a_step)

    def make_batch(self, crops: CropBatch, number: int) -> SetBatch:
        """Deal crops into sets and mask some: a function of the seed and the batch's number."""
        generator = seeded(keyed(self.spec.seed, 1, number))
        sets = self.splitter(crops.valid, crops.raw_geometry, generator)
        ratio = self.spec.objective.hidden_share if self.objective.masks else 0.0
        return make_set_batch(crops, sets, draw_mask(sets.valid, ratio, generator), self.device)

    def score(self, batch: SetBatch, crops: CropBatch, step: int) -> ObjectiveResult:
        """Encode a batch with every network and let the objective score it."""
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
                    teacher[MAIN_STREAM] = encode_sets(self.average.model, batch, tokens="all", masked=False)
            negatives = None
            if self.objective.needs_negatives:
                beside = list(self.networks.values())[-1]
                shown = in_stream(batch, crops.more_features[-1])
                negatives = encode_sets(beside, shown, tokens=self.objective.needs_tokens)
            inputs = ObjectiveInput(online, teacher, step, step / self.course.total_steps, negatives)
            result: ObjectiveResult = self.objective(inputs)
        return result

    def explain(self, step: StepDone, logs: Mapping[str, Tensor]) -> str:
        """Say why a loss or a weight is not finite, and what to change."""
        return explain_non_finite(self.model, step.batch, logs)

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors."""
        average = None if self.average is None else self.average.model
        return pack_training(self.model, self.objective, self.optimiser, average, self.device, self.others)

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put everything from :meth:`tensors` back in place."""
        average = None if self.average is None else self.average.model
        unpack_training(tensors, self.model, self.objective, self.optimiser, average, self.device, self.others)
