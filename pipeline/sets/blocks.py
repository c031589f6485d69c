"""Blocks of values that come back from a set, and the reading of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.sets.buffers import aligned_empty
from pipeline.sets.reader import SetReader
from pipeline.storage.schema import GEOMETRY_COLUMNS

Mode = Literal["auto", "host", "stream"]


@dataclass(frozen=True, slots=True)
class FeatureBlock:
    """Features of some videos. Never NaN: what is not there is zeros with `valid` False."""

    values: np.ndarray
    """(n, V, D) float16 or float32. May be a read-only view of the store."""
    valid: np.ndarray
    """(n, V) bool."""
    geometry: np.ndarray
    """(n, V, 9) float32, columns GEOMETRY_COLUMNS, raw units."""
    rows: np.ndarray
    """(n,) int64, in the selection's order."""

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def empty(cls, num_rows: int, num_crops: int, dim: int, dtype: str) -> FeatureBlock:
        """Return a block of memory of the right shapes, not initialised: the `out` of `Selection.batches`."""
        return cls(
            aligned_empty((num_rows, num_crops, dim), dtype),
            aligned_empty((num_rows, num_crops), bool),
            aligned_empty((num_rows, num_crops, len(GEOMETRY_COLUMNS)), np.float32),
            np.empty(num_rows, np.int64),
        )


@dataclass(frozen=True, slots=True)
class EmbeddingBlock:
    """Embeddings of some videos."""

    values: np.ndarray
    """(n, E)."""
    valid: np.ndarray
    """(n,) bool."""
    rows: np.ndarray
    """(n,) int64, in the selection's order."""

    def __len__(self) -> int:
        return len(self.rows)


def allocate(reader: SetReader, num_rows: int) -> dict[str, np.ndarray]:
    """Return buffers for `num_rows` rows of a set, not initialised."""
    return {a.name: aligned_empty((num_rows, *a.layout.row_shape), a.layout.dtype) for a in reader.spec.arrays}


def read_rows(reader: SetReader, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return rows of a set in their order: views where possible, else a copy."""
    if (rows[1:] <= rows[:-1]).any():
        ascending, places = np.unique(rows, return_inverse=True)
        return {name: array[places] for name, array in read_rows(reader, ascending).items()}
    if rows.size and rows[-1] - rows[0] == rows.size - 1:
        views = reader.views(int(rows[0]), int(rows[-1]) + 1)
        if views is not None:
            return views
    out = allocate(reader, len(rows))
    reader.read(rows, out)
    return out
