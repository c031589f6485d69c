"""The shared kernel: recipes, catalogue, store, query, errors, events.

Importing it is cheap; what needs pyarrow, zarr or duckdb is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.sets.blocks import EmbeddingBlock, FeatureBlock
    from pipeline.sets.ledger_entry import LedgerEntry, RowStatus
    from pipeline.sets.writer import EmbeddingWriter, FeatureWriter, ShardTask
    from pipeline.store.catalogue import AppendedVideos
    from pipeline.store.dataset import Dataset
    from pipeline.store.feature_store import FeatureStore
    from pipeline.store.selection import Selection

_PLACES = {
    "AppendedVideos": "store.catalogue",
    "Dataset": "store.dataset",
    "EmbeddingBlock": "sets.blocks",
    "EmbeddingWriter": "sets.writer",
    "FeatureBlock": "sets.blocks",
    "FeatureStore": "store.feature_store",
    "FeatureWriter": "sets.writer",
    "LedgerEntry": "sets.ledger_entry",
    "RowStatus": "sets.ledger_entry",
    "Selection": "store.selection",
    "ShardTask": "sets.writer",
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
