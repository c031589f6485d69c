"""CARL: sequences agree moment by moment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class CarlObjective(ObjectiveBase):
    """CARL (Chen et al.; CVPR 2022): a crop of one set is as near to the other set's crops as their times are."""

    kind: Literal["carl"]
    sigma: float = Field(1.0, gt=0)
    """Width of the Gaussian over time, in mean distances between a video's crops."""
    temperature: float = Field(0.1, gt=0)
