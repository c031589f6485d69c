"""Single frames over the whole video at a rate."""

from __future__ import annotations

import math

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft, time_axis
from extract.crops.policies.boxes import spread_squares, square_side_px
from pipeline.recipe import FramesPolicy


@draw_draft.register
def draw_frames(policy: FramesPolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Show a frame every ``1 / rate_fps`` seconds; crop v has time ``v // spatial`` and place ``v % spatial``.

    A rate above the video's own takes every frame once. Where there is room
    for more than `temporal` frames, they are spread evenly over the video.
    """
    axis = time_axis(policy, facts)
    period_s = max(1.0 / policy.rate_fps, 1.0 / facts.fps)
    period = period_s * facts.fps if axis.counts_frames else period_s
    wanted = 1 + math.floor(axis.max_start / period + 1e-6)
    used = min(wanted, policy.temporal)
    times = np.zeros(policy.temporal)
    times[:used] = np.arange(used) * period if wanted <= policy.temporal else np.linspace(0.0, axis.max_start, used)
    side = int(square_side_px(facts, policy.size_px, policy.short_side_px))
    size = policy.num_crops
    return CropDraft(
        **axis.draft_times(np.repeat(np.minimum(times, axis.max_start), policy.spatial)),
        boxes_px=np.tile(spread_squares(facts, side, policy.spatial), (policy.temporal, 1)),
        flip=np.zeros(size, bool),
        stride=np.ones(size, np.int64),
        planned=np.repeat(np.arange(policy.temporal) < used, policy.spatial),
    )
