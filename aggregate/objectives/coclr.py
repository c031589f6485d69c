"""CoCLR (Han, Xie, Zisserman; NeurIPS 2020): who is near in the other stream is a positive in this one.

For the query i of the stream whose turn it is, over all other sets of the batch:

    L = -log sum_{j in P_i} exp(z_i . z_j / tau) / sum_j exp(z_i . z_j / tau)

P_i: the other set of the same video, and the `top_k` videos whose set tokens in the *other* stream are most similar to
those of i (itself and, unless they count as positives, its siblings left out of the ranking). The search is exact.

`mine: batch` looks among the videos of the step. `mine: store` looks among all videos of the training, each by the key
of its last step, at most an epoch ago; of the mined ones that key in this stream stands beside the sets of the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aggregate.network.model import ScaleModel
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.vicc import with_both_sets
from aggregate.objectives.video_bank import NOBODY, VideoBank
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


@dataclass(frozen=True)
class MoreKeys:
    """Keys of videos beside the sets of a batch.

    Attributes
    ----------
    keys : Tensor
        (M, P) unit vectors without gradient.
    positive : Tensor
        (B, M) bool: for which videos of the batch each is a positive.
    """

    keys: Tensor
    positive: Tensor


def many_positives_loss(
    z_BSP: Tensor, positive_BB: Tensor, temperature: float, more: MoreKeys | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss over both sets of each video, and how often the most similar other one is a positive.

    Parameters
    ----------
    z_BSP : Tensor
        (B, 2, P) unit projections.
    positive_BB : Tensor
        bool between videos; the diagonal is True.
    temperature : float
    more : MoreKeys, optional
        Compared with as well.
    """
    z = torch.cat((z_BSP[:, 0], z_BSP[:, 1]))
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.mT / temperature).masked_fill(itself, -torch.inf)
    positive = positive_BB.repeat(2, 2) & ~itself
    if more is not None:
        logits = torch.cat((logits, z @ more.keys.to(z.dtype).mT / temperature), dim=1)
        positive = torch.cat((positive, more.positive.repeat(2, 1)), dim=1)
    loss = (logits.logsumexp(1) - logits.masked_fill(~positive, -torch.inf).logsumexp(1)).mean()
    hit = positive.gather(1, logits.detach().argmax(1, keepdim=True)).float().mean()
    return loss, hit


class Coclr(Objective):
    """See the module; figures `coclr_loss` and `coclr_accuracy`."""

    num_streams = 2

    def __init__(self, spec: CoclrObjective) -> None:
        super().__init__()
        self.spec = spec
        self._num_videos = 0
        self.bank: VideoBank | None = None

    def expect(self, num_videos: int) -> None:
        """Take note of how many videos the bank must hold."""
        self._num_videos = num_videos

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make the bank of keys, where the whole store is mined in."""
        if self.spec.mine == "store":
            self.bank = VideoBank(self._num_videos, 2, next(iter(models.values())).spec.projection_dim)

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
        top_k = self.spec.top_k if inputs.progress >= self.spec.mine_from else 0
        siblings = group[:, None] == group[None]
        same = video[:, None] == video[None]
        with torch.no_grad():
            keys = unit(unit(mines.model.set_head(mines.set_tokens[both, :2])).sum(1))
        with torch.autocast(z.device.type, enabled=False):
            if self.bank is None:
                mined = mine(keys, siblings | same, top_k)
                more = None
            else:
                slots = self.bank.nearest(1 - turn, keys, group, top_k)
                mined, more = self._positives(self.bank, slots, video, group, turn)
                own = unit(z.detach().sum(1))
                self.bank.remember(video, group, torch.stack((own, keys) if turn == 0 else (keys, own)))
            positive = same | mined | (siblings if self.spec.siblings else torch.zeros_like(same))
            loss, hit = many_positives_loss(z, positive, self.spec.temperature, more)
        return ObjectiveResult(loss, {"coclr_loss": loss.detach(), "coclr_accuracy": hit})

    def _positives(
        self, bank: VideoBank, slots_BK: Tensor, video_B: Tensor, group_B: Tensor, turn: int
    ) -> tuple[Tensor, MoreKeys]:
        """Return which videos of the batch were mined for each, and the keys of all that were, with their owners."""
        ids = torch.where(slots_BK >= 0, bank.ids[slots_BK], NOBODY)
        used = slots_BK[slots_BK >= 0].unique()
        positive = (bank.ids[used] == ids[..., None]).any(1) | (bank.ids[used] == video_B[:, None])
        if self.spec.siblings:
            positive |= bank.groups[used] == group_B[:, None]
        return (video_B == ids[..., None]).any(1), MoreKeys(bank.keys[turn, used], positive)


build_objective.register(CoclrObjective, Coclr)
