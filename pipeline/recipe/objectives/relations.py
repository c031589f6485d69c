"""Objectives that ask how two crops or sets of a video lie to each other: overlap, distance in time, speed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class StorObjective(ObjectiveBase):
    """STOR (Zhang et al., CSTP; AAAI 2022): how much two crops overlap in time and in space, from their features."""

    kind: Literal["stor"]
    bins: int = Field(5, ge=1)
    """Classes of overlap above 0; none at all is a class of its own."""
    pairs: int = Field(16, ge=1)
    """Drawn a video and step."""


class ConcurObjective(ObjectiveBase):
    """ConCur (Roy, Hassani, Hoai; arXiv 2209.00760): positives lie further apart as training goes on."""

    kind: Literal["concur"]
    temperature: float = Field(0.1, gt=0)
    start_span: float = Field(0.1, gt=0, le=1)
    """Largest distance of a positive pair at first, as a share of the video; it grows to all of it."""
    grown_at: float = Field(0.5, gt=0, le=1)
    """Share of the training after which no pair is too far apart."""
    distance_weight: float = Field(1.0, ge=0)
    distance_bins: int = Field(4, ge=2)


class CvrlObjective(ObjectiveBase):
    """CVRL (Qian et al.; CVPR 2021): NT-Xent whose pairs count as its sampler would have drawn them."""

    kind: Literal["cvrl"]
    exponent: float = Field(1.0, gt=0)
    """a of the density 1 - (distance / T)^a; 1 is what random crops are already."""
    temperature: float = Field(0.1, gt=0)


class SpeedObjective(ObjectiveBase):
    """Playback speed (Cho et al., arXiv 2003.02692): which speed a crop has, and which of two is the faster."""

    kind: Literal["speed"]
    speeds: tuple[float, ...] = Field((-4, -2, -1, 1, 2, 4), min_length=2)
    """Signed strides that the crop set holds (its `speeds` times its `stride`)."""
    sort_weight: float = Field(1.0, ge=0)
    """Of the question which of two crops is played faster."""
