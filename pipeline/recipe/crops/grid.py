"""Crops on a grid of times and places, for tests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.crops.base import CropPolicyBase


class GridPolicy(CropPolicyBase):
    """SCALE's test crops: `temporal` starts times `spatial` places along the longer side."""

    policy: Literal["grid"]
    temporal: int = Field(5, ge=1)
    spatial: int = Field(3, ge=1)
    short_side_px: int = Field(256, ge=8)
    size_px: int = Field(256, ge=8, le=4096)
    cover_tail: bool = False
    """True: the last start reaches the video's end. False: start = max_start * i / temporal, as in SCALE's code."""

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return self.temporal * self.spatial
