"""Single frames over the whole video."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.crops.base import CropPolicyBase


class FramesPolicy(CropPolicyBase):
    """Single frames over the whole video at a rate: the finest order of time that an image network can give."""

    policy: Literal["frames"]
    rate_fps: float = Field(8.0, gt=0)
    """Frames a second; each is a crop of its own."""
    temporal: int = Field(32, ge=1, le=4096)
    """Most times a video; longer ones are spread over the whole duration, shorter ones leave the rest masked."""
    spatial: int = Field(1, ge=1)
    """Places along the longer side, each seen at every time."""
    num_frames: int = Field(1, ge=1, le=1)
    """Always 1."""
    stride: int = Field(1, ge=1, le=1)
    """Always 1."""
    short_side_px: int = Field(256, ge=8)

    @property
    def num_crops(self) -> int:
        """Crops a video, at most."""
        return self.temporal * self.spatial
