"""CoCLR (Han, Xie, Zisserman; NeurIPS 2020): who is near in the other stream is a positive in this one.

For the query i of the stream whose turn it is, over all other sets of the batch:

    L = -log sum_{j in P_i} exp(z_i . z_j / tau) / sum_j exp(z_i . z_j / tau)

P_i: the other set of the same video, and the `top_k` videos whose set tokens in the *other* stream are most similar to
those of i (itself and, unless they count as positives, its siblings left out of the ranking). The search is exact and
fresh: over every video of the step, so a batch as large as the selection mines over all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.vicc import with_both_sets
from pipeline.recipe.objectives.motion import CoclrObjective


@torch.no_grad()
def mine(keys_BP: Tensor, own_BB: Tensor, top_k: int) -> Tensor:
    """Return which videos are mined for each, (B, B) bool: the `top_k` most similar that are not its own.

    Parameters
    ----------
    keys_BP : Tensor
        Unit vectors of the other stream, one a video.
    own_BB : Tensor
        bool: what is left out of the ranking.
    """
    similarity = (keys_BP @ keys_BP.mT).masked_fill(own_BB, -torch.inf)
    k = min(top_k, similarity.shape[1])
    found = torch.zeros_like(own_BB)
    if k:
        found.scatter_(1, similarity.topk(k, dim=1).indices, True)
    return found & ~own_BB


def many_positives_loss(z_BSP: Tensor, positive_BB: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the loss over both sets of each video, and how often the most similar other set is a positive.

    Parameters
    ----------
    z_BSP : Tensor
        (B, 2, P) unit projections.
    positive_BB : Tensor
        bool between videos; the diagonal is True.
    """
    z = torch.cat((z_BSP[:, 0], z_BSP[:, 1]))
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.mT / temperature).masked_fill(itself, -torch.inf)
    positive = positive_BB.repeat(2, 2) & ~itself
    loss = (logits.logsumexp(1) - logits.masked_fill(~positive, -torch.inf).logsumexp(1)).mean()
    hit = positive.gather(1, logits.detach().argmax(1, keepdim=True)).float().mean()
    return loss, hit


class Coclr(Objective):
    """See the module; figures `coclr_loss`, `coclr_accuracy`, and `coclr_agreement`: mined pairs of the same group."""

    num_streams = 2

    def __init__(self, spec: CoclrObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video in the stream whose turn it is."""
        streams = inputs.pair
        turn = int(inputs.progress * 2 * self.spec.cycles) % 2
        learns, mines = streams[turn], streams[1 - turn]
        both = with_both_sets(learns)
        z = unit(learns.model.set_head(learns.set_tokens[both, :2]))
        if len(both) < 2:
            nothing = z.sum() * 0.0
            return ObjectiveResult(nothing, {"coclr_loss": nothing.detach()})
        group = learns.batch.group_ids[both]
        video = learns.batch.video_ids[both]
        siblings = group[:, None] == group[None]
        same = video[:, None] == video[None]
        with torch.no_grad():
            keys = unit(unit(mines.model.set_head(mines.set_tokens[both, :2])).sum(1))
        mined = mine(keys, siblings | same, self.spec.top_k)
        positive = same | mined | (siblings if self.spec.siblings else torch.zeros_like(same))
        with torch.autocast(z.device.type, enabled=False):
            loss, hit = many_positives_loss(z, positive, self.spec.temperature)
        return ObjectiveResult(loss, {"coclr_loss": loss.detach(), "coclr_accuracy": hit})


build_objective.register(CoclrObjective, Coclr)
