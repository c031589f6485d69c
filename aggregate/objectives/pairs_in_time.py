"""CVRL and ConCur: contrast between sets whose distance in time decides how much a pair counts.

Both need pairs at known times; with `set_size: 1` the sets are single crops, as in the papers. u is the distance of
the two sets' mid times over the time that the video's crops span.

CVRL (CVPR 2021): its sampler draws distances with density ``(a + 1)/a (1 - u^a)``; crops drawn independently have
``2 (1 - u)``. So a pair counts ``w(u) = (a + 1)/a (1 - u^a) / (2 (1 - u))`` and

    L = sum_b w(u_b) NT-Xent_b / sum_b w(u_b)

ConCur (2209.00760): pairs with ``u <= span`` count, ``span`` growing from `start_span` to 1; a linear head on
``[z1; z2; |z1 - z2|]`` classifies u into bins.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from aggregate.data.geometry import END_S, START_S
from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.carl import mid_times
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.vicc import with_both_sets
from pipeline.errors import InvalidInputError
from pipeline.recipe.objectives.relations import ConcurObjective, CvrlObjective


def pair_weights(share_B: Tensor, exponent: float) -> Tensor:
    """Return ``(a + 1)/a (1 - u^a) / (2 (1 - u))``; its limit ``(a + 1)/2`` at u = 1."""
    u = share_B.clamp(0, 1)
    rest = 1 - u
    ratio = (1 - u.pow(exponent)) / rest.clamp_min(1e-6)
    return (exponent + 1) / exponent / 2 * torch.where(rest > 1e-6, ratio, torch.full_like(u, exponent))


def weighted_nt_xent(first_BP: Tensor, second_BP: Tensor, weight_B: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent of both anchors of every pair, averaged by weight; 0 where all weights are."""
    z = torch.cat((first_BP, second_BP))
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.mT / temperature).masked_fill(itself, -torch.inf)
    losses = functional.cross_entropy(
        logits, torch.arange(len(z), device=z.device).roll(len(first_BP)), reduction="none"
    )
    weight = weight_B.repeat(2)
    return (losses * weight).sum() / weight.sum().clamp_min(1e-12)


def pair_share(encoded: EncodedSets, videos: Tensor) -> Tensor:
    """Return the distance of the first two sets' mid times over the span of all stored crops, (B',) in 0..1."""
    batch = encoded.batch
    valid = batch.valid[videos, :2]
    times = mid_times(batch.raw_geometry[videos, :2])
    mean = torch.where(valid, times, 0.0).sum(-1) / valid.sum(-1).clamp_min(1)
    return ((mean[:, 0] - mean[:, 1]).abs() / stored_span(encoded)[videos]).clamp_max(1.0)


def stored_span(encoded: EncodedSets) -> Tensor:
    """Return the seconds between the first and the last stored crop of each video, (B,), above 0."""
    batch = encoded.batch
    num_stored = batch.stored_raw_geometry.shape[1]
    rows = torch.div(batch.stored_index.view(batch.shape[0], -1)[:, 0], num_stored, rounding_mode="floor")
    raw = batch.stored_raw_geometry[rows]
    times, planned = mid_times(raw), raw[..., END_S] > raw[..., START_S]
    low = times.masked_fill(~planned, torch.inf).amin(1)
    high = times.masked_fill(~planned, -torch.inf).amax(1)
    span = high - low
    return torch.where(torch.isfinite(span) & (span > 0), span, 1.0).to(batch.valid.device)


class Cvrl(Objective):
    """See the module; figures `cvrl_loss` and `cvrl_share`, the mean distance of the pairs."""

    def __init__(self, spec: CvrlObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video."""
        encoded = inputs.main
        both = with_both_sets(encoded)
        z = unit(encoded.model.set_head(encoded.set_tokens[both, :2]))
        share = pair_share(encoded, both)
        with torch.autocast(z.device.type, enabled=False):
            weight = pair_weights(share, self.spec.exponent)
            loss = weighted_nt_xent(z[:, 0], z[:, 1], weight, self.spec.temperature)
        logs = {"cvrl_loss": loss.detach(), "cvrl_share": share.mean()}
        return ObjectiveResult(loss, logs, math.log(max(2 * len(both) - 1, 1)))


class Concur(Objective):
    """See the module; figures `concur_loss`, `concur_distance_loss`, `concur_distance_accuracy`, `concur_used`."""

    def __init__(self, spec: ConcurObjective) -> None:
        super().__init__()
        self.spec = spec
        self.head: nn.Module = nn.Identity()

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make the distance head.

        Raises
        ------
        InvalidInputError
            If the network sees times, which give the answer away.
        """
        model = next(iter(models.values()))
        if self.spec.distance_weight > 0:
            refuse_geometry(model, ("time", "all"), "concur's distance head")
            self.head = nn.Linear(3 * model.spec.projection_dim, self.spec.distance_bins)

    def span(self, progress: float) -> float:
        """Return the largest distance of a positive pair at this point of the training."""
        return min(1.0, self.spec.start_span + (1 - self.spec.start_span) * progress / self.spec.grown_at)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video."""
        encoded = inputs.main
        both = with_both_sets(encoded)
        z = unit(encoded.model.set_head(encoded.set_tokens[both, :2]))
        share = pair_share(encoded, both)
        near = (share <= self.span(inputs.progress)).float()
        with torch.autocast(z.device.type, enabled=False):
            loss = weighted_nt_xent(z[:, 0], z[:, 1], near, self.spec.temperature)
        logs = {"concur_loss": loss.detach(), "concur_used": near.mean()}
        weight = self.spec.distance_weight
        if weight > 0:
            bins = self.spec.distance_bins
            truth = (share * bins).long().clamp_max(bins - 1)
            scores = self.head(torch.cat((z[:, 0], z[:, 1], (z[:, 0] - z[:, 1]).abs()), -1)).float()
            part = functional.cross_entropy(scores, truth) if len(truth) else scores.sum() * 0.0
            logs |= {"concur_distance_loss": part.detach()}
            logs |= {"concur_distance_accuracy": (scores.detach().argmax(1) == truth).float().mean()}
            loss = (loss + weight * part) / (1 + weight)
        return ObjectiveResult(loss, logs)


def refuse_geometry(model: ScaleModel, shown: tuple[str, ...], what: str) -> None:
    """Raise InvalidInputError where a network is shown what an objective asks it to find out."""
    if model.spec.geometry in shown:
        raise InvalidInputError(
            f"expected a model that does not see the answer for {what}, found model.geometry {model.spec.geometry!r}; "
            f"set model.geometry to {'box' if 'box' not in shown else 'none'}"
        )


build_objective.register(CvrlObjective, Cvrl)
build_objective.register(ConcurObjective, Concur)
