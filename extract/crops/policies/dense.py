"""Sliding windows over long videos."""

from __future__ import annotations

import math

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft, time_axis
from extract.crops.policies.boxes import spread_squares, square_side_px
from pipeline.recipe import DensePolicy


@draw_draft.register
def draw_dense(policy: DensePolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Start a central crop every `hop_s`; the last one reaches the end, slots beyond it stay empty.

    Where a video has room for more than `num_crops`, they are spread evenly.
    """
    axis = time_axis(policy, facts)
    hop = max(policy.hop_s * facts.fps, 1.0) if axis.counts_frames else policy.hop_s
    wanted = 1 + math.ceil(axis.max_start / hop - 1e-9)
    size = policy.num_crops
    used = min(wanted, size)
    starts = np.zeros(size)
    if wanted <= size:
        starts[:used] = np.minimum(np.arange(used) * hop, axis.max_start)
    else:
        starts[:used] = np.linspace(0.0, axis.max_start, used)
    side = int(square_side_px(facts, policy.size_px, policy.short_side_px))
    return CropDraft(
        **axis.draft_times(starts),
        boxes_px=np.repeat(spread_squares(facts, side, 1), size, axis=0),
        flip=np.zeros(size, bool),
        stride=np.full(size, policy.stride),
        planned=np.arange(size) < used,
    )
