"""One module a crop policy; each offers a function (policy, facts, draws) -> CropDraft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from extract.crop_policies.base import CropDraft, VideoFacts
from extract.crop_policies.dense import draw_dense
from extract.crop_policies.grid import draw_grid
from extract.crop_policies.imported import refuse_imported
from extract.crop_policies.local_global import draw_local_global
from extract.crop_policies.random import draw_random
from extract.crop_policies.speeds import draw_speeds
from extract.draws import Draws

DRAWERS: Mapping[str, Callable[[Any, VideoFacts, Draws], CropDraft]] = {
    "random": draw_random,
    "grid": draw_grid,
    "local_global": draw_local_global,
    "dense": draw_dense,
    "imported": refuse_imported,
    "speeds": draw_speeds,
}

__all__ = ["DRAWERS", "CropDraft", "VideoFacts"]
