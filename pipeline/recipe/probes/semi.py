"""Few labels and many videos: how far the videos without labels help."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from pipeline.recipe.probes.base import ProbeBase
from pipeline.recipe.readout_words import ProbedReadout

SemiMethod = Literal["plain", "knn", "self_training", "propagation", "cmpl", "ltg"]


class SemiProbe(ProbeBase):
    """Classifiers that see the labels of a few train videos, and the others without theirs; never a test video."""

    kind: Literal["semi"]
    readouts: tuple[ProbedReadout, ...] = ("mean",)
    """As for knn. ltg needs one with several parts, such as two streams."""
    methods: tuple[SemiMethod, ...] = Field(("plain", "knn", "self_training", "propagation", "cmpl"), min_length=1)
    """plain, knn: the labelled videos alone. self_training: sure guesses become labels, round by round. propagation:
    labels spread along nearest neighbours. cmpl: two learners of different size teach each other. ltg: one learner a
    part, their guesses averaged."""
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = (0.01, 0.05, 0.1)
    """Shares of the train labels, class-balanced; one label a class at least."""
    per_class: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Labels a class."""
    num_seeds: int = Field(3, ge=1)
    """Draws of the labels: seed, seed + 1, ..."""
    l2: PositiveFloat = 1e-3
    """Of every classifier, on vectors of length 1."""
    confidence: float = Field(0.8, gt=0, lt=1)
    """From which probability a guess counts as a label."""
    rounds: int = Field(5, ge=1)
    """Of self-training and ltg."""
    neighbours: int = Field(10, ge=1)
    """Edges a video for propagation; voters for knn."""
    steps: int = Field(200, ge=1)
    """Of cmpl."""
    strong_crops: int = Field(4, ge=1)
    """cmpl: most crops that its strong view sees."""
