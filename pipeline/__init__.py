"""The shared kernel: recipes, catalogue, store, query, errors, events.

Importing it is cheap; what needs pyarrow, zarr or duckdb is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.reading.selection import EmbeddingBlock, FeatureBlock, Selection
    from pipeline.store.catalogue import AppendedVideos
    from pipeline.store.dataset import Dataset
    from pipeline.store.feature_store import FeatureStore
    from pipeline.store.ledger import LedgerEntry, RowStatus
    from pipeline.store.writer import EmbeddingWriter, FeatureWriter, ShardTask

_PLACES = {
    "AppendedVideos": "store.catalogue",
    "Dataset": "store.dataset",
    "EmbeddingBlock": "reading.selection",
    "EmbeddingWriter": "store.writer",
    "FeatureBlock": "reading.selection",
    "FeatureStore": "store.feature_store",
    "FeatureWriter": "store.writer",
    "LedgerEntry": "store.ledger",
    "RowStatus": "store.ledger",
    "Selection": "reading.selection",
    "ShardTask": "store.writer",
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
