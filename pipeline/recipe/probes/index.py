"""Indexes for search."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.base import Name, Spec
from pipeline.recipe.readout_words import ProbedReadout
from pipeline.recipe.training import ModelNames


class IndexSpec(Spec):
    """A FAISS index over one feature or embedding set, for search."""

    name: Name = "default"
    """Where it makes several (feature sets, embeddings), each has the name of what it reads behind it."""
    crops: str
    backbone: str | None = None
    models: ModelNames = None
    """Models whose embeddings are read, one or a list; None: all of the recipe."""
    readout: ProbedReadout = "mean"
    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto"

    @property
    def feature_set(self) -> str | None:
        """The feature set that is read, which the recipe calls `backbone`."""
        return self.backbone
