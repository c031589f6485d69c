"""Questions to frozen crops that need no labels of actions: what they know of time, overlap and speed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.probes.base import ProbeBase


class DiagnosticProbe(ProbeBase):
    """What the features of single crops tell of how the crops lie in their video."""

    kind: Literal["order", "overlap", "speed", "tau", "phase"]
    """order: which of two crops of a video comes first. overlap: how much two overlap in time. speed: how fast a crop
    is played (its stride). tau: Kendall's tau of nearest neighbours between two videos of one class. phase: whether
    the nearest crops in other videos of the class show the same part of it."""
    pairs: int = Field(16, ge=1)
    """Drawn a video: pairs of its crops, or other videos that it is compared with."""
    bins: int = Field(4, ge=2)
    """Classes of overlap above none (overlap), parts of a video (phase)."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """It reads crops."""
        return ("crops",)
