"""The tables that SQL sees, each read when a query reaches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.query.artifact_tables import (
    ARTIFACTS_SCHEMA,
    NUMBERS_SCHEMA,
    PREDICTIONS_SCHEMA,
    artifacts_table,
    numbers_table,
    predictions_batches,
)
from pipeline.query.set_tables import SETS_SCHEMA, SHARDS_SCHEMA, each_set, sets_table, shards_batches
from pipeline.query.sql import SqlTable, is_show_tables
from pipeline.query.vector_tables import vector_tables
from pipeline.sets.reader import SetReader
from pipeline.storage.layout import shard_range
from pipeline.storage.schema import CATALOGUE_SCHEMA, GEOMETRY_COLUMNS, STATUS_SCHEMA

if TYPE_CHECKING:
    from pipeline.sets.handles import DatasetHandle, StoreHandle

LEDGER_TABLE_SCHEMA = pa.schema(
    [pa.field("crops", pa.string(), False), pa.field("feature_set", pa.string(), False), *STATUS_SCHEMA]
)
"""``ledger``: one row for every video and feature set, videos that are still pending included. `seconds` is the set's
share: a decoding that served several sets is divided among them, so that sums count it once."""

EMBEDDING_LEDGER_SCHEMA = pa.schema([pa.field("embedding", pa.string(), False), *STATUS_SCHEMA])
"""``embedding_ledger``: the same for embedding sets."""

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


def store_tables(store: StoreHandle, query: str) -> dict[tuple[str, str], SqlTable]:
    """Return the tables that a query may name, by (dataset, table).

    Tables of vectors have a schema that only their set knows, so they are made for a query that may name one.
    """
    tables: dict[tuple[str, str], SqlTable] = {}
    wants_vectors = isinstance(query, str) and ("/" in query or is_show_tables(query))
    for name in store.datasets():
        opened = cache(partial(store.dataset, name))
        found = dataset_tables(opened)
        if wants_vectors:
            found |= vector_tables(opened())
        tables |= {(name, table): source for table, source in found.items()}
    return tables


def dataset_tables(open_dataset: Callable[[], DatasetHandle]) -> dict[str, SqlTable]:
    """Return the tables that every dataset has, by name.

    Parameters
    ----------
    open_dataset : callable
        Called when a query reaches one of the tables, and once: all of them are of one moment.
    """
    opened = cache(open_dataset)
    return {
        "videos": SqlTable(CATALOGUE_SCHEMA, lambda: _videos(opened())),
        "ledger": SqlTable(LEDGER_TABLE_SCHEMA, lambda: _stream(LEDGER_TABLE_SCHEMA, _ledger(opened()))),
        "geometry": SqlTable(GEOMETRY_TABLE_SCHEMA, lambda: _stream(GEOMETRY_TABLE_SCHEMA, _geometry(opened()))),
        "embedding_ledger": SqlTable(
            EMBEDDING_LEDGER_SCHEMA, lambda: _stream(EMBEDDING_LEDGER_SCHEMA, _embedding_ledger(opened()))
        ),
        "sets": SqlTable(SETS_SCHEMA, lambda: sets_table(opened())),
        "shards": SqlTable(SHARDS_SCHEMA, lambda: _stream(SHARDS_SCHEMA, shards_batches(opened()))),
        "artifacts": SqlTable(ARTIFACTS_SCHEMA, lambda: artifacts_table(opened())),
        "numbers": SqlTable(NUMBERS_SCHEMA, lambda: numbers_table(opened())),
        "predictions": SqlTable(PREDICTIONS_SCHEMA, lambda: _stream(PREDICTIONS_SCHEMA, predictions_batches(opened()))),
    }


def _stream(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> pa.RecordBatchReader:
    return pa.RecordBatchReader.from_batches(schema, batches)


def _videos(dataset: DatasetHandle) -> pa.RecordBatchReader:
    return _stream(CATALOGUE_SCHEMA, (batch for part in dataset.parts() for batch in part.to_batches(65_536)))


def _ledger(dataset: DatasetHandle) -> Iterator[pa.RecordBatch]:
    keys = [(crops, name) for kind, crops, name in each_set(dataset) if crops is not None]
    for parts in zip(*(dataset.status_parts(*key) for key in keys), strict=True):
        seconds = np.stack([part["seconds"].to_numpy() for part in parts])
        for (crops, feature_set), part, own in zip(keys, parts, seconds, strict=True):
            # One decoding writes one and the same float into every set that it served.
            share = own / np.maximum((seconds == own).sum(axis=0), 1)
            at = part.schema.get_field_index("seconds")
            for batch in part.set_column(at, STATUS_SCHEMA.field("seconds"), pa.array(share)).to_batches(65_536):
                names = [pa.array([text] * batch.num_rows) for text in (crops, feature_set)]
                yield pa.RecordBatch.from_arrays([*names, *batch.columns], schema=LEDGER_TABLE_SCHEMA)


def _embedding_ledger(dataset: DatasetHandle) -> Iterator[pa.RecordBatch]:
    for name in dataset.embedding_sets():
        for batch in (batch for part in dataset.status_parts(None, name) for batch in part.to_batches(65_536)):
            names = pa.array([name] * batch.num_rows)
            yield pa.RecordBatch.from_arrays([names, *batch.columns], schema=EMBEDDING_LEDGER_SCHEMA)


def _geometry(dataset: DatasetHandle) -> Iterator[pa.RecordBatch]:
    """Yield the crops of one shard after another, held to their checksums; never more than that in memory."""
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
                dataset.lines_of(rows)["video_id"].combine_chunks(),
                pa.array(crop, pa.int32()),
                *(pa.array(boxes[local, crop, c]) for c in range(len(GEOMETRY_COLUMNS))),
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=GEOMETRY_TABLE_SCHEMA)


def _geometry_reader(dataset: DatasetHandle, crops: str, feature_set: str) -> SetReader:
    """Read only the geometry of a feature set: the values stay untouched and unchecked."""
    whole = dataset._reader(crops, feature_set)
    return SetReader(
        dataset.backend, replace(whole.spec, arrays=(whole.spec.array("geometry"),)), whole.ledger, whole.hidden
    )
