"""Playback speed and direction."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.crops.base import CropPolicyBase


class SpeedsPolicy(CropPolicyBase):
    """Playback speed and direction: crops at signed strides, for speed and order work."""

    policy: Literal["speeds"]
    speeds: tuple[int, ...] = (-4, -2, -1, 1, 2, 4)
    """Signed multiples of `stride`; 0 is a frozen frame."""
    crops_per_speed: int = Field(1, ge=1)
    short_side_px: int | tuple[int, int] = (256, 320)
    stride: int = Field(1, ge=1, le=1024)

    @model_validator(mode="after")
    def _speeds_in_range(self) -> SpeedsPolicy:
        if not self.speeds or any(abs(s) > 16 for s in self.speeds):
            raise ValueError(f"expected 1 or more speeds in -16..16, found {self.speeds}")
        return self

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return len(self.speeds) * self.crops_per_speed

    @property
    def longest_stride(self) -> int:
        """That of the fastest speed."""
        return self.stride * max(abs(s) for s in self.speeds)
