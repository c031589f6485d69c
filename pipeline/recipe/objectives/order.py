"""The objective for which a video in another order of time is another video."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class OrderContrastObjective(ObjectiveBase):
    """Two sets of a video in the same order find each other among the same crops in other orders of time."""

    kind: Literal["order_contrast"]
    temperature: float = Field(0.1, gt=0)
    orders: int = Field(3, ge=2)
    """In how many orders each video is seen: as it is, backwards, and cut into stretches that change places."""
    stretches: int = Field(3, ge=2)
    """Into how many stretches time is cut, at random."""
    negatives: Literal["all", "own"] = "all"
    """all: other videos, too. own: the video's other orders alone, so that the scene is worth nothing."""
