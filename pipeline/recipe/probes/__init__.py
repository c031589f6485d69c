"""Probes: what is measured on frozen features and embeddings; one file a kind (`docs/extending.md`)."""

from typing import Annotated

from pipeline.recipe.kinds import Kinds
from pipeline.recipe.probes.base import ProbeBase
from pipeline.recipe.probes.index import IndexSpec
from pipeline.recipe.probes.knn import KnnProbe
from pipeline.recipe.probes.retrieval import RetrievalProbe
from pipeline.recipe.probes.trained import LinearProbe
from pipeline.recipe.probes.zero_shot import ZeroShotProbe

PROBES = Kinds("scale.probes", ProbeBase, __name__)
ProbeSpec = Annotated[ProbeBase, PROBES]

__all__ = [
    "PROBES",
    "IndexSpec",
    "KnnProbe",
    "LinearProbe",
    "ProbeBase",
    "ProbeSpec",
    "RetrievalProbe",
    "ZeroShotProbe",
]
