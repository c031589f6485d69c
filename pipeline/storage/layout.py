"""Pure maths of rows, shards and chunks. All ranges are half-open: ``[start, stop)``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

from pipeline.errors import CorruptDataError, InvalidInputError
from pipeline.storage.schema import MAX_ROW_BYTES, MAX_SHARD_BYTES, MAX_SHARD_ROWS

CONTIGUOUS_SHARD_BYTES = 1 << 20
"""Up to this size a shard is one chunk: contiguous, one checksum."""
MIN_CHUNK_BYTES = 4 << 10
"""A larger shard is cut into chunks of one row, or of as many rows as reach this size."""
CHUNK_ALIGN_BYTES = 64
"""Chunks begin at multiples of this. Copying rows out of a map takes 1.2 to 1.4 times as long where they lie across
cache lines (measured on x86-64, where memcpy's `rep movsb` is fast for aligned ends only)."""


def num_shards(num_rows: int, shard_rows: int) -> int:
    """Return how many shards hold `num_rows` rows."""
    return -(-num_rows // shard_rows)


def shard_range(shard: int, shard_rows: int, num_rows: int) -> tuple[int, int]:
    """Return the rows ``[start, stop)`` of a shard, cut at `num_rows`."""
    start = shard * shard_rows
    return start, max(start, min(start + shard_rows, num_rows))


def split_by_shard(rows: np.ndarray, shard_rows: int) -> Iterator[tuple[int, slice]]:
    """Yield (shard, slice into `rows`) for every shard that ascending `rows` touch."""
    if rows.size == 0:
        return
    shards = rows // shard_rows
    cuts = np.flatnonzero(np.diff(shards)) + 1
    edges = [0, *cuts.tolist(), int(rows.size)]
    for start, stop in pairwise(edges):
        yield int(shards[start]), slice(start, stop)


def default_chunk_rows(row_bytes: int, shard_rows: int) -> int:
    """Return how many rows an inner chunk holds.

    One row a chunk is what makes a mapped shard a plain strided array (row, checksum, padding), lets a single
    video be checked without reading its neighbours, and lets plain zarr fetch one video. Rows of a few bytes are
    grouped, and a small shard is one chunk, so that plain zarr does not drown in chunks.
    """
    if row_bytes * shard_rows <= CONTIGUOUS_SHARD_BYTES:
        return shard_rows
    divisors = (n for n in range(1, shard_rows + 1) if shard_rows % n == 0)
    return next((n for n in divisors if n * row_bytes >= MIN_CHUNK_BYTES), shard_rows)


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """How one array of the store lies in shards and chunks.

    Only the first axis (rows) is cut: a shard and a chunk hold whole rows.
    """

    row_shape: tuple[int, ...]
    """Shape of one row: (V, D), (V,), (V, 9), (E,) or ()."""
    dtype: np.dtype
    """Little-endian."""
    shard_rows: int
    chunk_rows: int

    def __post_init__(self) -> None:
        if not (1 <= self.shard_rows <= MAX_SHARD_ROWS) or self.shard_rows % max(self.chunk_rows, 1):
            raise CorruptDataError(
                f"expected 1-{MAX_SHARD_ROWS} rows a shard in whole chunks, "
                f"found {self.shard_rows} rows in chunks of {self.chunk_rows}"
            )
        if self.chunk_rows < 1 or any(n < 1 for n in self.row_shape):
            raise CorruptDataError(
                f"expected positive sizes, found row {self.row_shape} in chunks of {self.chunk_rows}"
            )
        if self.row_bytes > MAX_ROW_BYTES or self.row_bytes * self.shard_rows > MAX_SHARD_BYTES:
            raise CorruptDataError(
                f"expected rows of at most {MAX_ROW_BYTES} bytes, found shape {self.row_shape} {self.dtype} "
                f"x {self.shard_rows} rows a shard; the metadata is damaged or forged"
            )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.row_shape) * self.dtype.itemsize  # Python ints: no overflow on forged shapes

    @property
    def ndim(self) -> int:
        """Dimensions of the whole array."""
        return 1 + len(self.row_shape)

    @property
    def num_chunks(self) -> int:
        """Inner chunks a shard."""
        return self.shard_rows // self.chunk_rows

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one stored chunk, its 4 checksum bytes included."""
        return self.chunk_rows * self.row_bytes + 4

    @property
    def chunk_step(self) -> int:
        """Bytes from the start of one chunk to the start of the next, as this version writes them."""
        return -(-self.chunk_bytes // CHUNK_ALIGN_BYTES) * CHUNK_ALIGN_BYTES

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index: offset and length of each chunk, and 4 checksum bytes."""
        return 16 * self.num_chunks + 4


def check_shard_rows(shard_rows: int) -> int:
    """Return `shard_rows` if a dataset can have it.

    Raises
    ------
    InvalidInputError
        If it is not a whole number in 1..65536.
    """
    if not isinstance(shard_rows, int) or isinstance(shard_rows, bool) or not 1 <= shard_rows <= MAX_SHARD_ROWS:
        raise InvalidInputError(f"expected shard_rows in 1..{MAX_SHARD_ROWS}, found {shard_rows!r}")
    return shard_rows
