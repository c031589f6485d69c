"""Retrieval."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.probes.base import ProbeBase
from pipeline.recipe.readout_words import ProbedReadout


class RetrievalProbe(ProbeBase):
    """Recall at k and mean average precision; query = test, gallery = train."""

    kind: Literal["retrieval"]
    readouts: tuple[ProbedReadout, ...] = ("mean", "cls", "joined")
    """As for knn."""
    centring: Literal["none", "train", "per_split"] = "train"
    k: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 5, 10, 20, 50), min_length=1)
    gallery: Literal["mean", "random_crop"] = "mean"
    """mean: all crops of a train video, deterministic. random_crop: one drawn crop of it, as CoCLR and ViCC do (readout
    mean only)."""
    exclude_siblings: bool = False
    """Leave out train videos of the query's own group."""
