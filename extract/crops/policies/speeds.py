"""Crops at signed strides, for playback speed and direction."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft, time_axis
from extract.crops.policies.boxes import random_squares, short_sides, square_side_px
from pipeline.recipe import SpeedsPolicy


@draw_draft.register
def draw_speeds(policy: SpeedsPolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Draw `crops_per_speed` crops for every speed, speeds in the policy's order.

    A negative stride shows the same interval backwards, 0 holds its first
    frame. Starts are uniform over what the interval's length leaves.
    """
    stride = np.repeat(np.asarray(policy.speeds, np.int64) * policy.stride, policy.crops_per_speed)
    size = policy.num_crops
    unit = draws.unit(size)
    sides = square_side_px(facts, policy.size_px, short_sides(policy.short_side_px, size, draws))
    boxes = random_squares(facts, sides, draws)
    start_s, end_s, start_frame = np.zeros(size), np.zeros(size), np.zeros(size)
    for v in range(size):
        axis = time_axis(policy, facts, int(stride[v]))
        times = axis.draft_times(unit[v : v + 1] * axis.draw_limit)
        start_s[v], end_s[v] = times["start_s"][0], times["end_s"][0]
        start_frame[v] = times["start_frame"][0] if times["start_frame"] is not None else 0
    return CropDraft(
        start_s=start_s,
        end_s=end_s,
        boxes_px=boxes,
        flip=np.zeros(size, bool),
        stride=stride,
        planned=np.ones(size, bool),
        start_frame=start_frame if policy.target_fps is None else None,
    )
