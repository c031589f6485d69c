"""STOR and playback speed: heads on pairs of crops that find out how the crops lie to each other.

STOR (Zhang et al., AAAI 2022), with labels from the stored boxes instead of drawn ones: for random pairs of a video's
crops, ``IoU_t = |I1 n I2| / |I1 u I2|`` of their times and ``IoU_s`` of their boxes, each in `bins` equal bins above 0
and one for no overlap;

    L = (CE(A [h1; h2], bin(IoU_t)) + CE(B [h1; h2], bin(IoU_s))) / 2

each class weighing the same in a batch (random pairs mostly do not overlap). Playback speed (Cho et al., 2003.02692): a
crop's signed stride is classified among `speeds`, and of every two crops of a set which is the faster:

    L = (CE(A h, speed) + w CE(B [h1; h2], 1[v1 > v2])) / (1 + w)

h are the network's tokens; it must not be shown the geometry that is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from aggregate.data.geometry import BOTTOM_PX, END_S, LEFT_PX, RIGHT_PX, START_S, TOP_PX
from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult, TokensNeeded
from aggregate.objectives.pairs_in_time import refuse_geometry
from pipeline.compute.seeds import seeded
from pipeline.recipe.objectives.relations import SpeedObjective, StorObjective
from pipeline.storage.schema import GEOMETRY_COLUMNS

STRIDE = GEOMETRY_COLUMNS.index("stride")


def interval_overlap(a: Tensor, b: Tensor, low: int, high: int) -> tuple[Tensor, Tensor]:
    """Return the lengths of intersection and of each interval's sum minus it, of raw geometry rows."""
    shared = (torch.minimum(a[..., high], b[..., high]) - torch.maximum(a[..., low], b[..., low])).clamp_min(0)
    return shared, (a[..., high] - a[..., low]) + (b[..., high] - b[..., low]) - shared


def time_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of two crops' times."""
    shared, union = interval_overlap(a, b, START_S, END_S)
    return shared / union.clamp_min(1e-9)


def box_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the intersection over union of two crops' boxes."""
    height, _ = interval_overlap(a, b, TOP_PX, BOTTOM_PX)
    width, _ = interval_overlap(a, b, LEFT_PX, RIGHT_PX)
    areas = [(x[..., BOTTOM_PX] - x[..., TOP_PX]) * (x[..., RIGHT_PX] - x[..., LEFT_PX]) for x in (a, b)]
    return height * width / (areas[0] + areas[1] - height * width).clamp_min(1e-9)


def overlap_bin(overlap: Tensor, bins: int) -> Tensor:
    """Return 0 for no overlap, else 1..bins; bin b holds ((b - 1)/bins, b/bins]."""
    return torch.where(overlap > 0, torch.ceil(overlap * bins - 1e-6).clamp(1, bins), 0.0).long()


def balanced_cross_entropy(scores_NC: Tensor, truth_N: Tensor) -> Tensor:
    """Return cross-entropy in which every class that occurs weighs the same; 0 without rows."""
    if not len(truth_N):
        return scores_NC.sum() * 0.0
    counts = torch.bincount(truth_N, minlength=scores_NC.shape[1]).float()
    weight = torch.where(counts > 0, 1 / counts.clamp_min(1), 0.0)
    losses = functional.cross_entropy(scores_NC.float(), truth_N, reduction="none")
    return (losses * weight[truth_N]).sum() / (counts > 0).sum()


def drawn_pairs(valid_BN: Tensor, number: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pairs of different valid crops of each video: (video, first, second), (K,) each; a function of the seed."""
    generator = seeded(seed)
    num_videos, num_crops = valid_BN.shape
    picks = torch.randint(num_crops, (num_videos, number, 2), generator=generator).to(valid_BN.device)
    video = torch.arange(num_videos, device=valid_BN.device)[:, None].expand(-1, number).reshape(-1)
    first, second = picks[..., 0].reshape(-1), picks[..., 1].reshape(-1)
    keep = (first != second) & valid_BN[video, first] & valid_BN[video, second]
    return video[keep], first[keep], second[keep]


def _tokens(encoded: EncodedSets) -> Tensor:
    assert encoded.tokens is not None
    return encoded.tokens.flatten(1, 2)


class Stor(Objective):
    """See the module; figures `stor_time_loss`, `stor_space_loss` and their accuracies."""

    needs_tokens: TokensNeeded = "all"

    def __init__(self, spec: StorObjective) -> None:
        super().__init__()
        self.spec = spec
        self.heads = nn.ModuleList()

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make one head for time and one for space.

        Raises
        ------
        InvalidInputError
            If the network sees times or boxes.
        """
        model = next(iter(models.values()))
        refuse_geometry(model, ("time", "box", "all"), "the objective stor")
        width = model.dim
        self.heads.extend(nn.Linear(2 * width, self.spec.bins + 1) for _ in range(2))

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score random pairs of every video's crops."""
        encoded = inputs.main
        batch = encoded.batch
        video, first, second = drawn_pairs(batch.valid.flatten(1), self.spec.pairs, inputs.step)
        raw = batch.raw_geometry.flatten(1, 2)
        h = _tokens(encoded)
        joined = torch.cat((h[video, first], h[video, second]), -1)
        loss, logs = joined.sum() * 0.0, {}
        for name, head, overlap in zip(("time", "space"), self.heads, (time_overlap, box_overlap), strict=True):
            truth = overlap_bin(overlap(raw[video, first], raw[video, second]), self.spec.bins)
            scores = head(joined)
            part = balanced_cross_entropy(scores, truth)
            loss = loss + part / 2
            logs[f"stor_{name}_loss"] = part.detach()
            logs[f"stor_{name}_accuracy"] = (scores.detach().argmax(1) == truth).float().mean()
        return ObjectiveResult(loss, logs)


class Speed(Objective):
    """See the module; figures `speed_loss`, `speed_accuracy`, `speed_sort_loss`."""

    needs_tokens: TokensNeeded = "all"

    def __init__(self, spec: SpeedObjective) -> None:
        super().__init__()
        self.spec = spec
        self.classify: nn.Module = nn.Identity()
        self.sort: nn.Module = nn.Identity()
        self.register_buffer("speeds", torch.tensor(spec.speeds), persistent=False)
        self.speeds: Tensor

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make both heads.

        Raises
        ------
        InvalidInputError
            If the network sees how long crops are.
        """
        model = next(iter(models.values()))
        refuse_geometry(model, ("time", "all"), "the objective speed")
        self.classify = nn.Linear(model.dim, len(self.spec.speeds))
        if self.spec.sort_weight > 0:
            self.sort = nn.Linear(2 * model.dim, 2)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score every valid crop whose stride is among the speeds, and pairs of them."""
        encoded = inputs.main
        batch = encoded.batch
        stride = batch.raw_geometry[..., STRIDE].flatten(1)
        distance = (stride[..., None] - self.speeds).abs()
        known = batch.valid.flatten(1) & (distance.amin(-1) < 1e-3)
        h = _tokens(encoded)
        truth, scores = distance.argmin(-1)[known], self.classify(h[known]).float()
        loss = functional.cross_entropy(scores, truth) if len(truth) else scores.sum() * 0.0
        logs = {"speed_loss": loss.detach(), "speed_accuracy": (scores.detach().argmax(1) == truth).float().mean()}
        weight = self.spec.sort_weight
        if weight > 0:
            video, first, second = drawn_pairs(known, known.shape[1], inputs.step)
            differ = (stride[video, first] - stride[video, second]).abs() > 1e-3
            video, first, second = video[differ], first[differ], second[differ]
            scores = self.sort(torch.cat((h[video, first], h[video, second]), -1)).float()
            faster = (stride[video, first] > stride[video, second]).long()
            part = functional.cross_entropy(scores, faster) if len(faster) else scores.sum() * 0.0
            logs["speed_sort_loss"] = part.detach()
            loss = (loss + weight * part) / (1 + weight)
        return ObjectiveResult(loss, logs)


build_objective.register(StorObjective, Stor)
build_objective.register(SpeedObjective, Speed)
