"""Vectors as SQL sees them: a table for every feature set and embedding set, its vectors DuckDB's arrays of one size.

``"grid5x3/x3d_xs"`` has one row a video, the mean of its valid crops; ``"grid5x3/x3d_xs/crops"`` one row a valid crop;
``"embeddings/scale"`` one row a video. A video without a vector has NULL there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.query.set_tables import each_set
from pipeline.query.sql import SqlTable
from pipeline.storage.layout import shard_range

if TYPE_CHECKING:
    from pipeline.sets.handles import DatasetHandle


def vector_tables(dataset: DatasetHandle) -> dict[str, SqlTable]:
    """Return the tables of a dataset's vectors, by name."""
    tables: dict[str, SqlTable] = {}
    for _, crops, name in each_set(dataset):
        if crops is None:
            _add(tables, f"embeddings/{name}", _per_video(dataset.embedding_info(name).dim), dataset, None, name)
        else:
            dim = dataset.feature_info(crops, name).dim
            _add(tables, f"{crops}/{name}", _per_video(dim), dataset, crops, name)
            _add(tables, f"{crops}/{name}/crops", _per_crop(dim), dataset, crops, name)
    return tables


def _add(
    tables: dict[str, SqlTable], table: str, schema: pa.Schema, dataset: DatasetHandle, crops: str | None, name: str
) -> None:
    make: Callable[[DatasetHandle, str | None, str, pa.Schema], Iterator[pa.RecordBatch]]
    make = _crop_batches if "crop" in schema.names else _video_batches
    tables[table] = SqlTable(
        schema, lambda: pa.RecordBatchReader.from_batches(schema, make(dataset, crops, name, schema))
    )


def _columns(dim: int, *between: pa.Field) -> pa.Schema:
    return pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("video_id", pa.string(), nullable=False),
            pa.field("label", pa.string()),
            *between,
            pa.field("vector", pa.list_(pa.float32(), dim)),
        ]
    )


def _per_video(dim: int) -> pa.Schema:
    return _columns(dim, pa.field("num_valid", pa.int32(), nullable=False))


def _per_crop(dim: int) -> pa.Schema:
    return _columns(dim, pa.field("crop", pa.int32(), nullable=False))


def _video_batches(dataset: DatasetHandle, crops: str | None, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for rows in _shards(dataset):
        selection = dataset.select(rows=rows)
        if crops is None:
            embedded = selection.embeddings(name)
            vectors, num_valid = embedded.values, embedded.valid.astype(np.int32)
        else:
            block = selection.features(crops, name)
            num_valid = block.valid.sum(axis=1, dtype=np.int32)
            total = np.einsum("nvd,nv->nd", block.values, block.valid, dtype=np.float32)
            vectors = total / np.maximum(num_valid, 1)[:, None]
        yield _batch(dataset, rows, num_valid, vectors, num_valid == 0, schema)


def _crop_batches(dataset: DatasetHandle, crops: str | None, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    assert crops is not None
    for rows in _shards(dataset):
        block = dataset.select(rows=rows).features(crops, name)
        local, crop = np.nonzero(block.valid)
        yield _batch(dataset, rows[local], crop.astype(np.int32), block.values[local, crop], None, schema)


def _shards(dataset: DatasetHandle) -> Iterator[np.ndarray]:
    for shard in range(dataset.num_shards):
        yield np.arange(*shard_range(shard, dataset.shard_rows, dataset.num_rows))


def _batch(
    dataset: DatasetHandle, rows: np.ndarray, between: np.ndarray, vectors: np.ndarray, is_null: np.ndarray | None,
    schema: pa.Schema,
) -> pa.RecordBatch:  # fmt: skip
    picked = dataset.lines_of(rows).select(["video_id", "label"]).combine_chunks()
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    mask = None if is_null is None else pa.array(is_null)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(rows),
            *(_whole(picked[name]) for name in ("video_id", "label")),
            pa.array(between),
            pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=mask),
        ],
        schema=schema,
    )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
