"""Withdrawal's record: which rows are in no answer any more, and which of them are out of every byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.store.side_files import SideFiles

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend

REMOVED = "removed"
TOMBSTONE = "removed-"
"""What the video id of an erased row begins with."""
REMOVED_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("removed_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("erase", pa.bool_(), nullable=False),
        pa.field("erased", pa.bool_(), nullable=False),
    ]
)
"""``removed-<n>.parquet``. Says nothing of whose row it was. `erase`: its bytes are to go; `erased`: they are gone."""


def open_removals(backend: StorageBackend, dataset: str, count: int | None = None) -> SideFiles:
    """Return the removal files of a dataset; `count` of them, or all that there are."""
    return SideFiles(backend, dataset, REMOVED, REMOVED_SCHEMA, count)


def tombstone_id(row: int) -> str:
    """Return the video id that a removed row goes by."""
    return f"{TOMBSTONE}{row}"
