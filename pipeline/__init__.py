"""The shared kernel: recipes, catalogue, store, query, errors, events.

Importing it is cheap; what needs pyarrow, zarr or duckdb is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.catalogue import AppendedVideos
    from pipeline.dataset import Dataset
    from pipeline.ledger import LedgerEntry, RowStatus
    from pipeline.selection import EmbeddingBlock, FeatureBlock, Selection
    from pipeline.store import FeatureStore
    from pipeline.writer import EmbeddingWriter, FeatureWriter, ShardTask

_PLACES = {
    "AppendedVideos": "catalogue",
    "Dataset": "dataset",
    "EmbeddingBlock": "selection",
    "EmbeddingWriter": "writer",
    "FeatureBlock": "selection",
    "FeatureStore": "store",
    "FeatureWriter": "writer",
    "LedgerEntry": "ledger",
    "RowStatus": "ledger",
    "Selection": "selection",
    "ShardTask": "writer",
}

__all__ = [
    "AppendedVideos",
    "Dataset",
    "EmbeddingBlock",
    "EmbeddingWriter",
    "FeatureBlock",
    "FeatureStore",
    "FeatureWriter",
    "LedgerEntry",
    "RowStatus",
    "Selection",
    "ShardTask",
]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"pipeline.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
