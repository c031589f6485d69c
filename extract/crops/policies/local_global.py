"""SVT's crops (Ranasinghe et al., CVPR 2022): global ones over nearly all of the video, local ones over an eighth."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts, draw_draft
from extract.crops.policies.boxes import random_resized_boxes
from pipeline.recipe import LocalGlobalPolicy

GLOBAL_MARGIN_FRAMES = 5
"""SVT's two global crops see frames 0..N-5 and 5..N."""
ASPECT = (3 / 4, 4 / 3)


@draw_draft.register
def draw_local_global(policy: LocalGlobalPolicy, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Draw the global crops, then the local ones.

    The stride follows from the window: `num_frames` frames spread over it, so
    it is not a whole number here.
    """
    num_global, num_local, size = policy.num_global, policy.num_local, policy.num_crops
    margin_s = min(GLOBAL_MARGIN_FRAMES / facts.fps, facts.duration_s / 4)
    share = np.arange(num_global) / max(num_global - 1, 1)
    window_s = np.full(size, facts.duration_s * policy.local_fraction)
    window_s[:num_global] = facts.duration_s - margin_s
    start_s = draws.unit(size) * (facts.duration_s - window_s)
    start_s[:num_global] = share * margin_s
    boxes = np.concatenate(
        [
            random_resized_boxes(facts, policy.global_area, ASPECT, num_global, draws),
            random_resized_boxes(facts, policy.local_area, ASPECT, num_local, draws),
        ]
    )
    steps_per_s = facts.fps if policy.target_fps is None else policy.target_fps
    flip = draws.bernoulli(0.5, size) if policy.flip else np.zeros(size, bool)
    return CropDraft(
        start_s=start_s,
        end_s=start_s + window_s,
        boxes_px=boxes,
        flip=flip,
        stride=window_s * steps_per_s / policy.num_frames,
        planned=np.ones(size, bool),
        start_frame=np.floor(start_s * facts.fps + 1e-3) if policy.target_fps is None else None,
    )
