"""A selection as lazy Dask arrays, one block a shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import NoDataError
from pipeline.storage.layout import split_by_shard
from pipeline.storage.schema import GEOMETRY_COLUMNS

if TYPE_CHECKING:
    from pipeline.sets.blocks import FeatureBlock
    from pipeline.sets.handles import DatasetHandle, SelectionHandle, StoreHandle

    Opener = Callable[[str], StoreHandle]


@dataclass(frozen=True, slots=True)
class FeatureArrays:
    """Lazy features. Blocks are whole shards along the rows, and whole along the other axes."""

    values: Any
    """dask.array of shape (n, V, D)."""
    valid: Any
    """dask.array of shape (n, V), bool."""
    geometry: Any
    """dask.array of shape (n, V, 9), float32."""
    rows: np.ndarray
    """(n,) int64."""


def to_dask(selection: SelectionHandle, crops: str, feature_set: str) -> FeatureArrays:
    """Return the features of a selection as Dask arrays; nothing is read yet.

    Each block is read by whoever computes it: a worker opens the store's address once and keeps it open, so workers
    need the same access to the storage, and local ones map the same files.

    Parameters
    ----------
    selection : Selection
    crops, feature_set : str
        Which features.

    Returns
    -------
    FeatureArrays

    Raises
    ------
    NotFoundError
        If there is no such set.
    NoDataError
        If the selection is empty.
    """
    import dask.array as da
    from dask import delayed

    dataset = selection.dataset
    info = dataset.feature_info(crops, feature_set)
    if not len(selection):
        raise NoDataError("expected at least one row in the selection, found none; loosen the condition")
    read = delayed(_read_block, pure=True)
    snapshot = dataset.snapshot(crops, feature_set)
    blocks: dict[str, list[Any]] = {"values": [], "valid": [], "geometry": []}
    shapes = {
        "values": ((info.num_crops, info.dim), np.dtype(info.dtype)),
        "valid": ((info.num_crops,), np.dtype(bool)),
        "geometry": ((info.num_crops, len(GEOMETRY_COLUMNS)), np.dtype(np.float32)),
    }
    for _, part in split_by_shard(selection.rows, dataset.shard_rows):
        rows = selection.rows[part]
        block = read(type(dataset._store).open, dataset.backend.url, dataset.name, snapshot, crops, feature_set, rows)
        for name, (shape, dtype) in shapes.items():
            blocks[name].append(da.from_delayed(getattr(block, name), (len(rows), *shape), dtype))
    whole = {name: da.concatenate(parts, axis=0) for name, parts in blocks.items()}
    return FeatureArrays(**whole, rows=selection.rows)


@lru_cache(maxsize=8)
def _open(opener: Opener, url: str, dataset: str, snapshot: str) -> DatasetHandle:
    """Open once in each process; `snapshot` is in the key so that later graphs see later commits."""
    found: DatasetHandle = opener(url).dataset(dataset)
    return found


def _read_block(
    opener: Opener, url: str, dataset: str, snapshot: str, crops: str, feature_set: str, rows: np.ndarray
) -> FeatureBlock:
    block: FeatureBlock = _open(opener, url, dataset, snapshot).select(rows=rows).features(crops, feature_set)
    return block
