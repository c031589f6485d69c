"""SCALE's objective, its two halves, and the control without masking."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class ScaleObjective(ObjectiveBase):
    """What training minimises, as SCALE does."""

    kind: Literal["scale", "mcm", "set", "ntxent"] = "scale"
    """scale: weighted sum of masked crop modelling and set contrast; mcm, set: one of them; ntxent: SimCLR control."""
    set_weight: float = Field(1.0, ge=0)
    mcm_weight: float = Field(1.0, ge=0)
    temperature: float = Field(0.2, gt=0)
    mask_ratio: float = Field(0.25, ge=0, lt=1)
    negatives: Literal["all", "other_videos", "no_siblings"] = "all"
    positives: Literal["identity", "nearest"] = "identity"
