"""Arrow columns as NumPy arrays and back, by their buffers.

Arrow's own ways (``to_numpy``, ``pa.array``, ``empty_table``) import pandas at their first call wherever it happens to
be installed, for data that might be of pandas: a third of a second for a process that only opens a store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_DTYPES: dict[pa.DataType, np.dtype[Any]] = {
    pa.int32(): np.dtype("<i4"),
    pa.int64(): np.dtype("<i8"),
    pa.uint32(): np.dtype("<u4"),
    pa.uint64(): np.dtype("<u8"),
}
_TYPES = {dtype: kind for kind, dtype in _DTYPES.items()}


def values_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers as an array, read-only where it is the column's own memory."""
    dtype = _DTYPES.get(column.type)
    if dtype is None or column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False))
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    pieces = [_piece(chunk, dtype) for chunk in chunks if len(chunk)]
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else np.empty(0, dtype)


def _piece(chunk: pa.Array, dtype: np.dtype) -> np.ndarray:
    piece = np.frombuffer(chunk.buffers()[1], dtype, len(chunk), chunk.offset * dtype.itemsize)
    piece.flags.writeable = False  # others may look at the same memory
    return piece


def column_of(values: np.ndarray) -> pa.Array:
    """Return whole numbers as a column."""
    values = np.ascontiguousarray(values)
    return pa.Array.from_buffers(_TYPES[values.dtype], len(values), [None, pa.py_buffer(values)])


def texts_of(texts: Sequence[str]) -> pa.Array:
    """Return texts as a column."""
    encoded = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, encoded)])
    if ends[-1] > np.iinfo(np.int32).max:
        return pa.array(texts, pa.string())  # it says what does not fit
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends.astype("<i4")), pa.py_buffer(b"".join(encoded)))


def no_lines(schema: pa.Schema) -> pa.Table:
    """Return a table without lines."""
    return pa.table([pa.nulls(0, field.type) for field in schema], schema=schema)
