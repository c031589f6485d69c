"""Contrast between the set tokens of two disjoint sets of the same video.

SCALE's set loss (symmetric InfoNCE, released code) and SimCLR's NT-Xent
(ICML 2020), the control without masking.

Legend: B = videos, P = projection channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aggregate.objectives.contrast import info_nce, unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.masked_crops import Negatives


def set_contrast_loss(
    first_BP: Tensor,
    second_BP: Tensor,
    *,
    temperature: float,
    video_ids_B: Tensor,
    group_ids_B: Tensor,
    negatives: Negatives = "all",
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE: each set finds the other set of its video among the other sets of the batch.

    ``(CE(z1 . z2^T / t, diag) + CE(z2 . z1^T / t, diag)) / 2`` over unit vectors.

    Parameters
    ----------
    first_BP, second_BP : Tensor
        (B, P), ``g_s(CLS)`` of the two sets of each video.
    video_ids_B, group_ids_B : Tensor
        (B,) int64.
    negatives : {"all", "other_videos", "no_siblings"}
        all: every other row of the batch (the released code). other_videos: not the same
        video, should a batch hold it twice. no_siblings: nor its group.

    Returns
    -------
    loss, accuracy : Tensor
        Scalars; accuracy is the mean of both directions.
    """
    z1, z2 = unit(first_BP), unit(second_BP)
    own = torch.arange(z1.shape[0], device=z1.device)
    excluded = _not_negatives(video_ids_B, group_ids_B, negatives)
    loss_12, accuracy_12 = info_nce(z1, z2, own, temperature=temperature, excluded_MN=excluded)
    loss_21, accuracy_21 = info_nce(z2, z1, own, temperature=temperature, excluded_MN=excluded)
    return (loss_12 + loss_21) / 2, (accuracy_12 + accuracy_21) / 2


def nt_xent_loss(
    first_BP: Tensor,
    second_BP: Tensor,
    *,
    temperature: float,
    video_ids_B: Tensor,
    group_ids_B: Tensor,
    negatives: Negatives = "all",
) -> tuple[Tensor, Tensor]:
    """SimCLR's NT-Xent: 2 B anchors, each against the 2 B - 1 other sets of the batch, its own view's included.

    Parameters and returns as :func:`set_contrast_loss`.
    """
    num_videos = first_BP.shape[0]
    z = torch.cat((unit(first_BP), unit(second_BP)))
    anchors = torch.arange(2 * num_videos, device=z.device)
    excluded = torch.eye(2 * num_videos, dtype=torch.bool, device=z.device)
    others = _not_negatives(video_ids_B, group_ids_B, negatives)
    if others is not None:
        excluded = excluded | others.repeat(2, 2)
    return info_nce(z, z, anchors.roll(num_videos), temperature=temperature, excluded_MN=excluded)


def _not_negatives(video_ids: Tensor, group_ids: Tensor, negatives: Negatives) -> Tensor | None:
    if negatives == "all":
        return None
    same = video_ids[:, None] == video_ids[None]
    if negatives == "no_siblings":
        same = same | (group_ids[:, None] == group_ids[None])
    return same


class SetContrast(Objective):
    """SCALE's L_set on the first two sets of the main stream."""

    masks = True
    name = "set"

    def __init__(self, temperature: float = 0.2, negatives: Negatives = "all") -> None:
        super().__init__()
        self.temperature = temperature
        self.negatives = negatives

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Loss under `set_loss`, accuracy under `set_accuracy`. Videos with an empty set are left out."""
        z, video_ids, group_ids = project_pairs(inputs.main)
        loss, accuracy = self._loss(z[:, 0], z[:, 1], video_ids, group_ids)
        logs = {f"{self.name}_loss": loss.detach(), f"{self.name}_accuracy": accuracy}
        return ObjectiveResult(loss, logs, math.log(max(self._num_choices(len(z)), 1)))

    def _num_choices(self, num_videos: int) -> int:
        return num_videos

    def _loss(self, first: Tensor, second: Tensor, video_ids: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
        return set_contrast_loss(
            first,
            second,
            temperature=self.temperature,
            video_ids_B=video_ids,
            group_ids_B=group_ids,
            negatives=self.negatives,
        )


class NTXent(SetContrast):
    """The SimCLR control: NT-Xent on set tokens, nothing masked."""

    masks = False
    name = "ntxent"

    def _num_choices(self, num_videos: int) -> int:
        return 2 * num_videos - 1

    def _loss(self, first: Tensor, second: Tensor, video_ids: Tensor, group_ids: Tensor) -> tuple[Tensor, Tensor]:
        return nt_xent_loss(
            first,
            second,
            temperature=self.temperature,
            video_ids_B=video_ids,
            group_ids_B=group_ids,
            negatives=self.negatives,
        )


def project_pairs(encoded: EncodedSets) -> tuple[Tensor, Tensor, Tensor]:
    """Project the first two sets of every video that has both.

    Returns
    -------
    z : Tensor
        (B', 2, P).
    video_ids, group_ids : Tensor
        (B',) int64.
    """
    batch = encoded.batch
    tokens, video_ids, group_ids = encoded.set_tokens[:, :2], batch.video_ids, batch.group_ids
    if not batch.all_valid:
        both = batch.set_valid[:, :2].all(1).nonzero().squeeze(1)
        tokens, video_ids, group_ids = tokens[both], video_ids[both], group_ids[both]
    return encoded.model.set_head(tokens), video_ids, group_ids
