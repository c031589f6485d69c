"""Global and local crops."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.crops.base import CropPolicyBase


class LocalGlobalPolicy(CropPolicyBase):
    """SVT: global crops over nearly the whole video, local crops inside a window of 1/8 of it."""

    policy: Literal["local_global"]
    num_global: int = Field(2, ge=1)
    num_local: int = Field(8, ge=0)
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    local_fraction: float = Field(0.125, gt=0, le=1)
    num_frames: int = Field(8, ge=1, le=1024)
    flip: bool = True

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return self.num_global + self.num_local

    @property
    def follows_duration(self) -> bool:
        """Its windows are shares of the video."""
        return True
