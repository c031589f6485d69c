"""STC-Mix (CMMC, arXiv 2112.03906): CutMix of stretches of time between the sets of two videos, with soft labels.

The first set of the video a has m of its crops, neighbours in time, replaced by those of another video b at the same
place in b's order of time (within a stream, or b as the second stream shows it: both networks read crops into tokens of
one width). With the kept share lambda_a, and the second sets of all videos as keys,

    L_mix = mean_a -[lambda_a log p(a | mixed_a) + (1 - lambda_a) log p(b | mixed_a)],  p = softmax(z . k / tau)
    L = (L_set + w L_mix) / (1 + w)

L_set is the contrast between whole sets. Share, stretch and partner are a function of the step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aggregate.data.geometry import END_S, START_S
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.set_contrast import set_contrast_loss
from aggregate.objectives.vicc import with_both_sets
from pipeline.compute.seeds import seeded
from pipeline.recipe.objectives.regions import StcMixObjective


def pasted_from(valid_BV: Tensor, middle_BV: Tensor, partner_B: Tensor, first: int, number: int) -> Tensor:
    """Return which crop of its partner replaces each crop, (B, V) int64; -1 where it stays.

    Parameters
    ----------
    valid_BV : Tensor
        bool.
    middle_BV : Tensor
        Times.
    partner_B : Tensor
        int64: whose crops are pasted into each video.
    first, number : int
        Ranks in time that are replaced: ``first <= rank < first + number``, where both videos have such a crop.
    """
    width = valid_BV.shape[1]
    order = torch.where(valid_BV, middle_BV, torch.inf).argsort(dim=1, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(1, order, torch.arange(width, device=order.device).expand_as(order))
    counts = valid_BV.sum(1)
    last = torch.minimum(counts, counts[partner_B])[:, None].clamp_max(first + number)
    is_pasted = valid_BV & (ranks >= first) & (ranks < last)
    return torch.where(is_pasted, order[partner_B].gather(1, ranks), -1)


class StcMix(Objective):
    """See the module; figures `stc_set_loss`, `stc_mix_loss` and `stc_kept`."""

    def __init__(self, spec: StcMixObjective) -> None:
        super().__init__()
        self.spec = spec
        self.num_streams = 2 if spec.across else 1

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score whole and mixed first sets against second ones."""
        encoded = inputs.main
        both = with_both_sets(encoded)
        ids, groups = encoded.batch.video_ids[both], encoded.batch.group_ids[both]
        z = encoded.model.set_head(encoded.set_tokens[both, :2])
        loss, _ = set_contrast_loss(
            z[:, 0], z[:, 1], temperature=self.spec.temperature, video_ids_B=ids, group_ids_B=groups
        )
        logs = {"stc_set_loss": loss.detach()}
        if self.spec.mix_weight and len(both) > 1:
            source = inputs.pair[1] if self.spec.across else encoded
            mixed, kept = self._mixed_loss(encoded, source, both, z[:, 1], inputs.step)
            logs |= {"stc_mix_loss": mixed.detach(), "stc_kept": kept}
            loss = (loss + self.spec.mix_weight * mixed) / (1 + self.spec.mix_weight)
        return ObjectiveResult(loss, logs, math.log(max(len(both), 1)))

    def _mixed_loss(
        self, encoded: EncodedSets, source: EncodedSets, both: Tensor, keys: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        batch, model = encoded.batch, encoded.model
        num_videos, width = len(both), batch.shape[2]
        generator = seeded(step)
        shift = int(torch.randint(1, num_videos, (1,), generator=generator))
        most = max(1, int(self.spec.max_share * width))
        number = int(torch.randint(1, most + 1, (1,), generator=generator))
        first = int(torch.randint(0, width - number + 1, (1,), generator=generator))
        partner = torch.arange(num_videos, device=both.device).roll(shift)
        valid, raw = batch.valid[both, 0], batch.raw_geometry[both, 0]
        taken = pasted_from(valid, raw[..., START_S] + raw[..., END_S], partner, first, number)
        is_pasted = taken >= 0
        projected = source.projected(both, 0)[partner]
        pasted = projected.gather(1, taken.clamp_min(0)[..., None].expand_as(projected))
        tokens = torch.where(is_pasted[..., None], pasted, encoded.projected(both, 0))
        nobody = tokens.new_zeros(0, dtype=torch.int64)
        set_token, _ = model.contextualise(tokens, batch.geometry[both, 0], valid, None, nobody)
        kept = 1 - is_pasted.sum(1) / valid.sum(1)
        with torch.autocast(keys.device.type, enabled=False):
            scores = unit(model.set_head(set_token).float()) @ unit(keys.float()).mT / self.spec.temperature
            log_p = scores.log_softmax(1)
            found = kept * log_p.diagonal() + (1 - kept) * log_p.gather(1, partner[:, None])[:, 0]
        return -found.mean(), kept.mean()


build_objective.register(StcMixObjective, StcMix)
