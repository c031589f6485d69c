"""Masked crop modelling: predict, in a learned space, the features of crops that were hidden.

SCALE (ICCV 2023), dense loss of the released code; the switches on negatives
and positives are ConST-CL's (CVPR 2022) criticism of it.

Legend: M = masked crops, N = distinct crops in the batch, P = projection channels,
B = videos, S = sets, V = crops a set.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from aggregate.data.batch import SetBatch
from aggregate.objectives.contrast import info_nce, unit
from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult

Negatives = Literal["all", "other_videos", "no_siblings"]
Positives = Literal["identity", "nearest"]


def masked_crop_loss(
    predictions_MP: Tensor,
    targets_NP: Tensor,
    positive_M: Tensor,
    *,
    temperature: float,
    query_video_M: Tensor,
    target_video_N: Tensor,
    query_group_M: Tensor,
    target_group_N: Tensor,
    own_M: Tensor | None = None,
    negatives: Negatives = "all",
) -> tuple[Tensor, Tensor]:
    """Score predictions of masked crops against the targets of all crops in the batch.

    ``mean_i -log softmax_j(norm(yhat_i) . norm(y_j) / temperature)[positive_i]``; one direction, no stop-gradient.

    Parameters
    ----------
    predictions_MP : Tensor
        (M, P), ``g_p(h_i)`` of masked crops only.
    targets_NP : Tensor
        (N, P), ``g_t(x_j)``, one row for every distinct valid crop.
    positive_M : Tensor
        (M,) int64: the target row of each masked crop's positive.
    query_video_M, target_video_N, query_group_M, target_group_N : Tensor
        int64 ids.
    own_M : Tensor, optional
        (M,) int64: the target row of the masked crop itself where that is not
        its positive; it is then no negative either.
    negatives : {"all", "other_videos", "no_siblings"}
        all: every other crop, the rest of the video included (the released code).
        other_videos: not those of the same video. no_siblings: nor those of its group.

    Returns
    -------
    loss, accuracy : Tensor
        See :func:`aggregate.objectives.contrast.info_nce`.
    """
    excluded = None
    if negatives != "all":
        excluded = query_video_M[:, None] == target_video_N[None]
        if negatives == "no_siblings":
            excluded = excluded | (query_group_M[:, None] == target_group_N[None])
    if own_M is not None:
        own = torch.zeros(own_M.shape[0], targets_NP.shape[0], dtype=torch.bool, device=own_M.device)
        own.scatter_(1, own_M[:, None], True)
        excluded = own if excluded is None else excluded | own
    return info_nce(unit(predictions_MP), unit(targets_NP), positive_M, temperature=temperature, excluded_MN=excluded)


def nearest_in_other_sets(batch: SetBatch) -> Tensor:
    """Find, for every masked crop, the most similar frozen feature in the video's other sets.

    Returns
    -------
    Tensor
        (M,) int64, flat positions in (B * S * V): the crop of another set of the
        same video with the largest cosine similarity (the first of equals), or the
        crop itself where the other sets are empty.
    """
    _, num_sets, num_crops = batch.shape
    per_video = num_sets * num_crops
    x = unit(batch.features).flatten(1, 2)  # (B, S * V, D)
    video = torch.div(batch.masked_index, per_video, rounding_mode="floor")
    within = batch.masked_index - video * per_video
    queries = x.flatten(0, 1).index_select(0, batch.masked_index)
    similarity = torch.einsum("md,mtd->mt", queries, x.index_select(0, video))
    set_of = torch.arange(per_video, device=x.device) // num_crops
    # A crop that overlapping sets share is itself, not its neighbour.
    stored = batch.crops.flatten(1)
    same_crop = stored.flatten().index_select(0, batch.masked_index)[:, None] == stored.index_select(0, video)
    eligible = (
        (set_of[None] != (within // num_crops)[:, None]) & batch.valid.flatten(1).index_select(0, video) & ~same_crop
    )
    best = similarity.masked_fill(~eligible, -torch.inf).argmax(1)
    return torch.where(eligible.any(1), video * per_video + best, batch.masked_index)


class MaskedCropModelling(Objective):
    """SCALE's L_mcm on the main stream.

    Parameters
    ----------
    temperature : float
    negatives : {"all", "other_videos", "no_siblings"}
    positives : {"identity", "nearest"}
        identity: the hidden crop itself. nearest: the crop of the video's other
        set whose frozen feature is most similar to it.
    """

    needs_tokens = "masked"
    masks = True

    def __init__(
        self, temperature: float = 0.2, negatives: Negatives = "all", positives: Positives = "identity"
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.negatives = negatives
        self.positives = positives

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Loss under `mcm_loss`, top-1 accuracy of the retrieval under `mcm_accuracy`."""
        encoded = inputs.main
        batch, tokens = encoded.batch, encoded.tokens
        assert tokens is not None
        index = batch.masked_index
        if tokens.ndim == 4:  # another objective asked for all of them
            tokens = tokens.flatten(0, 2).index_select(0, index)
        features = batch.features.flatten(0, 2)
        num_videos, num_sets, num_crops = batch.shape
        owner = torch.arange(num_videos, device=index.device).repeat_interleave(num_sets * num_crops)
        target_owner, own = owner, index
        if batch.target_index is not None and batch.target_of_token is not None:
            features, target_owner = features[batch.target_index], owner[batch.target_index]
            own = batch.target_of_token[index]
        positive = own
        if self.positives == "nearest" and batch.num_masked:
            positive = nearest_in_other_sets(batch)
            if batch.target_of_token is not None:
                positive = batch.target_of_token[positive]
        query_owner = owner[index]
        if batch.num_masked:
            predictions, targets = encoded.model.dense_pred_head(tokens), encoded.model.targets(features)
        else:  # nothing is scored, so nothing is projected; zeros that keep the graph whole
            predictions, targets = tokens, encoded.set_tokens.flatten(0, 1)
        loss, accuracy = masked_crop_loss(
            predictions,
            targets,
            positive,
            temperature=self.temperature,
            query_video_M=batch.video_ids[query_owner],
            target_video_N=batch.video_ids[target_owner],
            query_group_M=batch.group_ids[query_owner],
            target_group_N=batch.group_ids[target_owner],
            own_M=None if positive is own else own,
            negatives=self.negatives,
        )
        num_choices: float = features.shape[0]
        if self.negatives != "all":
            num_choices = 1 + num_choices * (1 - 1 / max(num_videos, 1))
        logs = {"mcm_loss": loss.detach(), "mcm_accuracy": accuracy}
        return ObjectiveResult(loss, logs, math.log(max(num_choices, 1)))
