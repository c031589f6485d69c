"""Nearest neighbours."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from pipeline.recipe.probes.base import ProbeBase
from pipeline.recipe.readout_words import ProbedReadout


class KnnProbe(ProbeBase):
    """Weighted nearest neighbours by cosine similarity."""

    kind: Literal["knn"]
    readouts: tuple[ProbedReadout, ...] = ("mean", "cls", "joined")
    """mean: pooled crops. cls: the SCALE embedding. joined: both. Those with cls need `train` and `embed`. moments:
    mean, first cosines over time and deviation; sqrt, std: one part; another name: one of the recipe's `readouts`."""
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20), min_length=1)
    temperature: PositiveFloat | Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = 0.07
    """A neighbour's vote weighs exp(similarity / temperature)."""
    centring: Literal["none", "train", "per_split"] = "train"
    """Whose mean is subtracted: nobody's, the train rows' from all, each split's own. SCALE's protocol (k=20, T=.07,
    per_split) is always measured beside."""
    crop_counts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4, 8, 16)
    """Points of the curve of accuracy against the number of crops a video; all crops are always its last point."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """As a tuple."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
