"""Contrast between what a set of crops shows and how it moves: MaCLR on sets, MSCL on crops, iBoot by prediction.

With unit projections z of the first stream and m of the second, over the videos b of a batch:

MaCLR (ECCV 2022):  L = NCE(z, z') + w NCE(z, m), both directions, z' being the other set;
MSCL (ECCV 2022):   L = w_s NCE(z, m) + w_l mean_t -log softmax_s(z_bt . m_bs / tau)[s = t] over the crops s of the same
                    set in the second stream, both directions; with `turned`, from the first stream to the second also
                    over these crops with their motion turned around, which are never right;
iBoot (2206.08339): L = mean |unit(W c_b) - unit(x_b)|^2, c the set token, x the mean of the *other* stream's frozen
                    features minus their mean over the batch, W linear; and the reverse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import info_nce, unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult, TokensNeeded
from aggregate.objectives.vicc import with_both_sets
from pipeline.recipe.objectives.motion import IbootObjective, MaclrObjective, MsclObjective


def symmetric_nce(first_BP: Tensor, second_BP: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return InfoNCE in both directions, row b of both being a pair, and its accuracy."""
    own = torch.arange(len(first_BP), device=first_BP.device)
    there, hit_there = info_nce(first_BP, second_BP, own, temperature=temperature)
    back, hit_back = info_nce(second_BP, first_BP, own, temperature=temperature)
    return (there + back) / 2, (hit_there + hit_back) / 2


def crop_nce(
    first_RVP: Tensor,
    second_RVP: Tensor,
    valid_RV: Tensor,
    temperature: float,
    negatives: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return how badly each crop finds itself among its set's crops of the other stream, and how often it does.

    Crops of the first stream look among the negatives, too: (R, V, P), and which of them count, (R, V).
    """
    logits = first_RVP @ second_RVP.mT / temperature
    counts = valid_RV.sum()
    total, hits = logits.new_zeros(()), logits.new_zeros(())
    own = torch.arange(logits.shape[1], device=logits.device)
    there, among = logits, valid_RV
    if negatives is not None:
        there = torch.cat((logits, first_RVP @ negatives[0].mT / temperature), -1)
        among = torch.cat((valid_RV, negatives[1]), -1)
    for scores, choices in ((there, among), (logits.mT, valid_RV)):
        log_p = scores.masked_fill(~choices[:, None, :], -1e9).log_softmax(-1)
        total = total - (log_p.diagonal(dim1=1, dim2=2) * valid_RV).sum()
        hits = hits + ((log_p.detach().argmax(-1) == own) & valid_RV).sum()
    return total / (2 * counts.clamp_min(1)), hits / (2 * counts.clamp_min(1))


class Maclr(Objective):
    """See the module; figures `maclr_set_loss`, `maclr_motion_loss`, `maclr_motion_accuracy`."""

    num_streams = 2

    def __init__(self, spec: MaclrObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video."""
        first, second = inputs.pair
        both = with_both_sets(first)
        z, m = (unit(s.model.set_head(s.set_tokens[both, :2])) for s in (first, second))
        within, _ = symmetric_nce(z[:, 0], z[:, 1], self.spec.temperature)
        logs = {"maclr_set_loss": within.detach()}
        weight = self.spec.motion_weight
        if weight > 0:
            across, accuracy = symmetric_nce(z[:, 0], m[:, 0], self.spec.temperature)
            logs |= {"maclr_motion_loss": across.detach(), "maclr_motion_accuracy": accuracy}
            within = (within + weight * across) / (1 + weight)
        return ObjectiveResult(within, logs, math.log(max(len(both), 1)))


class Mscl(Objective):
    """See the module; figures `mscl_set_loss`, `mscl_local_loss`, `mscl_local_accuracy`."""

    num_streams = 2

    def __init__(self, spec: MsclObjective) -> None:
        super().__init__()
        self.spec = spec
        self.needs_tokens: TokensNeeded = "all" if spec.local_weight > 0 else "none"
        self.needs_negatives = bool(spec.negatives_from)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score every set that holds a crop."""
        first, second = inputs.pair
        loss = first.set_tokens.sum() * 0.0
        logs: dict[str, Tensor] = {}
        total = self.spec.set_weight + self.spec.local_weight
        if self.spec.set_weight > 0:
            usable = first.batch.set_valid[:, 0].nonzero().squeeze(1)
            z, m = (unit(s.model.set_head(s.set_tokens[usable, 0])) for s in (first, second))
            part, _ = symmetric_nce(z, m, self.spec.temperature)
            loss, logs["mscl_set_loss"] = loss + self.spec.set_weight / total * part, part.detach()
        if self.spec.local_weight > 0:
            z, m = (_crops(s) for s in (first, second))
            turned = None
            if self.needs_negatives:
                assert inputs.negatives is not None
                others = inputs.negatives.batch
                # A crop that is hidden shows neither way: its turned form would be the crop itself.
                turned = (_crops(inputs.negatives), (others.valid & ~others.masked).flatten(0, 1))
            with torch.autocast(z.device.type, enabled=False):
                part, hits = crop_nce(z, m, first.batch.valid.flatten(0, 1), self.spec.temperature, turned)
            loss = loss + self.spec.local_weight / total * part
            logs |= {"mscl_local_loss": part.detach(), "mscl_local_accuracy": hits}
        return ObjectiveResult(loss, logs)


def _crops(encoded: EncodedSets) -> Tensor:
    assert encoded.tokens is not None
    return unit(encoded.model.dense_pred_head(encoded.tokens)).flatten(0, 1)


class Iboot(Objective):
    """See the module; figures `iboot_loss`, and `iboot_back_loss` where it goes both ways."""

    num_streams = 2

    def __init__(self, spec: IbootObjective) -> None:
        super().__init__()
        self.spec = spec
        self.heads = nn.ModuleList()

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make a linear map from each stream's set token to the other's features."""
        first, second = list(models.values())[:2]
        self.heads.append(nn.Linear(first.dim, second.input_dim))
        if self.spec.both_ways:
            self.heads.append(nn.Linear(second.dim, first.input_dim))

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score every set that holds a crop."""
        first, second = inputs.pair
        loss = prediction_loss(self.heads[0], first, second)
        logs = {"iboot_loss": loss.detach()}
        if self.spec.both_ways:
            back = prediction_loss(self.heads[1], second, first)
            logs["iboot_back_loss"] = back.detach()
            loss = (loss + back) / 2
        return ObjectiveResult(loss, logs, 2.0)  # unit vectors without relation are sqrt(2) apart


def prediction_loss(head: nn.Module, source: EncodedSets, target: EncodedSets) -> Tensor:
    """Return the mean squared distance between unit predictions and the other stream's centred unit features."""
    valid = target.batch.valid.flatten(0, 1)
    usable = valid.any(1).nonzero().squeeze(1)
    x = target.model.standardised(target.batch.features).flatten(0, 1)[usable].float()
    kept = valid[usable][..., None]
    pooled = torch.where(kept, x, 0.0).sum(1) / kept.sum(1)
    predicted = unit(head(source.set_tokens.flatten(0, 1)[usable]))
    return (predicted - unit(pooled - pooled.mean(0))).square().sum(-1).mean()


build_objective.register(MaclrObjective, Maclr)
build_objective.register(MsclObjective, Mscl)
build_objective.register(IbootObjective, Iboot)
