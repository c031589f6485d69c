"""SCALE's test crops: some starts times some places along the longer side."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft, time_axis
from extract.crops.policies.boxes import spread_squares, square_side_px
from pipeline.recipe import GridPolicy


@draw_draft.register
def draw_grid(policy: GridPolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Lay the grid; crop v has start ``v // spatial`` and place ``v % spatial``.

    SCALE's code starts at ``max_start * i / temporal``, so the tail is never
    seen; `cover_tail` divides by ``temporal - 1`` instead.
    """
    axis = time_axis(policy, facts)
    steps = np.arange(policy.temporal)
    divisor = max(policy.temporal - 1, 1) if policy.cover_tail else policy.temporal
    starts = np.repeat(axis.max_start * steps / divisor, policy.spatial)
    side = int(square_side_px(facts, policy.size_px, policy.short_side_px))
    boxes = np.tile(spread_squares(facts, side, policy.spatial), (policy.temporal, 1))
    size = policy.num_crops
    return CropDraft(
        **axis.draft_times(starts),
        boxes_px=boxes,
        flip=np.zeros(size, bool),
        stride=np.full(size, policy.stride),
        planned=np.ones(size, bool),
    )
