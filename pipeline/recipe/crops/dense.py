"""Sliding windows."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.crops.base import CropPolicyBase


class DensePolicy(CropPolicyBase):
    """Sliding windows over long videos; the number of crops follows the duration, the rest is masked."""

    policy: Literal["dense"]
    hop_s: float = Field(1.0, gt=0)
    """Seconds between two starts."""
    num_crops: int = Field(64, ge=1, le=4096)
    """Most crops a video; longer ones are spread over the whole duration."""
    short_side_px: int = Field(256, ge=8)
