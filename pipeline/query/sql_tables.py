"""The tables that SQL sees: a dataset's catalogue, ledger and geometry, each read only when a query reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.query.sql import SqlTable
from pipeline.sets.reader import SetReader
from pipeline.storage.layout import shard_range
from pipeline.storage.schema import CATALOGUE_SCHEMA, GEOMETRY_COLUMNS, STATUS_SCHEMA

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

LEDGER_TABLE_SCHEMA = pa.schema(
    [pa.field("crops", pa.string(), False), pa.field("feature_set", pa.string(), False), *STATUS_SCHEMA]
)
"""``ledger``: one row for every video and feature set, videos that are still pending included."""

GEOMETRY_TABLE_SCHEMA = pa.schema(
    [
        pa.field("crops", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("crop", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32()) for name in GEOMETRY_COLUMNS),
    ]
)
"""``geometry``: one row for every crop that has been drawn, in raw units."""


def dataset_tables(open_dataset: Callable[[], Dataset]) -> dict[str, SqlTable]:
    """Return ``videos``, ``ledger`` and ``geometry`` of a dataset.

    Parameters
    ----------
    open_dataset : callable
        Called when a query reaches one of the tables, and once: all of them are of one moment.
    """
    opened = cache(open_dataset)
    return {
        "videos": SqlTable(CATALOGUE_SCHEMA, lambda: opened().videos),
        "ledger": SqlTable(LEDGER_TABLE_SCHEMA, lambda: _stream(LEDGER_TABLE_SCHEMA, _ledger(opened()))),
        "geometry": SqlTable(GEOMETRY_TABLE_SCHEMA, lambda: _stream(GEOMETRY_TABLE_SCHEMA, _geometry(opened()))),
    }


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(schema, batches)


def _ledger(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    for crops in dataset.crop_sets():
        for feature_set in dataset.feature_sets(crops):
            for batch in dataset.status(crops, feature_set).to_batches(65_536):
                names = [pa.array([text] * batch.num_rows) for text in (crops, feature_set)]
                yield pa.RecordBatch.from_arrays([*names, *batch.columns], schema=LEDGER_TABLE_SCHEMA)


def _geometry(dataset: Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the crops of one shard after another, held to their checksums; never more than that in memory."""
    ids = dataset.videos["video_id"]
    for crops in dataset.crop_sets():
        readers = [_geometry_reader(dataset, crops, feature_set) for feature_set in dataset.feature_sets(crops)]
        for shard in range(dataset.num_shards if readers else 0):
            start, stop = shard_range(shard, dataset.shard_rows, dataset.num_rows)
            shape = readers[0].spec.array("geometry").layout.row_shape
            boxes, found = np.zeros((2, stop - start, *shape), np.float32)
            for reader in readers:  # what one feature set lacks another may have
                reader.read(np.arange(start, stop), {"geometry": found})
                missing = ~boxes.any(axis=(1, 2))
                boxes[missing] = found[missing]
            local, crop = np.nonzero(boxes[:, :, 1] > boxes[:, :, 0])  # end_s > start_s: a crop that was drawn
            rows = start + local
            columns = [
                pa.array([crops] * len(rows), pa.string()),
                pa.array(rows),
                ids.take(pa.array(rows)).combine_chunks(),
                pa.array(crop, pa.int32()),
                *(pa.array(boxes[local, crop, c]) for c in range(len(GEOMETRY_COLUMNS))),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=GEOMETRY_TABLE_SCHEMA)


def _geometry_reader(dataset: Dataset, crops: str, feature_set: str) -> SetReader:
    """Read only the geometry of a feature set: the values stay untouched and unchecked."""
    whole = dataset._reader(crops, feature_set)
    return SetReader(dataset.backend, replace(whole.spec, arrays=(whole.spec.array("geometry"),)), whole.ledger)
