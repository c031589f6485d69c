"""Crops that came with imported features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.crops.base import CropPolicyBase


class ImportedPolicy(CropPolicyBase):
    """Crops that came with imported features: nobody can draw them again, so no other backbone can see them."""

    policy: Literal["imported"]
    num_crops: int = Field(ge=1, le=65_536)
    source: str = ""
    """Where they came from: the format, and what it calls this set."""
    geometry: Literal["raw", "per_video", "none"] = "raw"
    """raw: seconds and source pixels. per_video: boxes and times min-max normalised over the crops of each video, as
    SCALE's files hold them; what the model reads is derived from them unchanged. none: not known, all zero."""
