"""One module a crop policy; each offers a function (policy, facts, draws) -> CropDraft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from extract.crops.draws import Draws
from extract.crops.policies.base import CropDraft, VideoFacts
from extract.crops.policies.dense import draw_dense
from extract.crops.policies.frames import draw_frames
from extract.crops.policies.grid import draw_grid
from extract.crops.policies.imported import refuse_imported
from extract.crops.policies.local_global import draw_local_global
from extract.crops.policies.random import draw_random
from extract.crops.policies.speeds import draw_speeds

DRAWERS: Mapping[str, Callable[[Any, VideoFacts, Draws], CropDraft]] = {
    "random": draw_random,
    "grid": draw_grid,
    "local_global": draw_local_global,
    "dense": draw_dense,
    "frames": draw_frames,
    "imported": refuse_imported,
    "speeds": draw_speeds,
}

__all__ = ["DRAWERS", "CropDraft", "VideoFacts"]
