"""SCALE's training crops, weak and strong."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft, time_axis
from extract.crops.policies.boxes import random_resized_boxes, random_squares, short_sides, square_side_px
from extract.crops.policies.intervals import paired_starts
from pipeline.recipe import RandomPolicy


@draw_draft.register
def draw_random(policy: RandomPolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Draw crops at random times and places (SCALE, src/extract_features.py and its SlowFast configs)."""
    size = policy.num_crops
    axis = time_axis(policy, facts)
    if policy.interval_exponent is None:
        starts = draws.unit(size) * axis.draw_limit
    else:
        starts = paired_starts(axis.draw_limit, policy.interval_exponent, size, draws)
    if policy.area is None:
        sides = square_side_px(facts, policy.size_px, short_sides(policy.short_side_px, size, draws))
        boxes = random_squares(facts, sides, draws)
    else:
        boxes = random_resized_boxes(facts, policy.area, policy.aspect, size, draws)
    flip = draws.bernoulli(0.5, size) if policy.flip else np.zeros(size, bool)
    return CropDraft(
        **axis.draft_times(starts),
        boxes_px=boxes,
        flip=flip,
        stride=np.full(size, policy.stride),
        planned=np.ones(size, bool),
    )
