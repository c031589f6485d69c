"""One shard as bytes: Zarr v3's `sharding_indexed` with uncompressed, crc32c-checked chunks.

The format is Zarr's own, see https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html:
every chunk is its raw little-endian bytes plus their crc32c; the index (offset and length of each chunk as uint64, and
its own crc32c) stands at the end. Chunks lie where the index says; ours begin at whole cache lines, with zeros between
them. Plain zarr packs its chunks tightly; either is read, by it and by us. Writing here costs one copy and leaves the
fsync and the rename to the backend.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import google_crc32c
import numpy as np

from pipeline.errors import CorruptDataError
from pipeline.storage.layout import ArrayLayout

ABSENT = (1 << 64) - 1
"""Offset and length of a chunk that is not there; it reads as the fill value."""


def fill_value(dtype: np.dtype) -> float | bool:
    """Return what plain zarr reads where nothing was written: NaN, so that it cannot pass for a feature; False."""
    return False if dtype.kind == "b" else float("nan")


def crc32c(data: bytes) -> int:
    """Return the crc32c (Castagnoli) of bytes."""
    return int(google_crc32c.value(data))


def row_checksums(array: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Return the crc32c of every row's bytes.

    Parameters
    ----------
    array : ndarray of shape (n, ...), or a sequence of n arrays
        Little-endian.

    Returns
    -------
    ndarray of shape (n,), uint32
    """
    return np.fromiter((google_crc32c.value(row.tobytes()) for row in array), dtype=np.uint32, count=len(array))


def encode_shard(rows: np.ndarray, layout: ArrayLayout, step: int | None = None) -> bytearray:
    """Encode the first rows of a shard; chunks beyond them are left out.

    Parameters
    ----------
    rows : ndarray of shape (n, *row_shape)
        1 <= n <= shard_rows, of the layout's dtype. A last chunk that is not full is padded with the fill value, as
        zarr does.
    step : int, optional
        Bytes from chunk to chunk; `layout.chunk_step` by default, `layout.chunk_bytes` is what zarr writes.

    Returns
    -------
    bytearray
        The shard, ready to be put.
    """
    assert (rows.dtype, rows.shape[1:]) == (layout.dtype, layout.row_shape)
    assert 1 <= len(rows) <= layout.shard_rows
    used = -(-len(rows) // layout.chunk_rows)
    body = layout.chunk_rows * layout.row_bytes
    step = layout.chunk_step if step is None else step
    end = (used - 1) * step + layout.chunk_bytes
    shard = bytearray(end + layout.index_bytes)
    chunks = np.ndarray((used, layout.chunk_bytes), np.uint8, buffer=shard, strides=(step, 1))
    flat = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
    whole = len(rows) // layout.chunk_rows
    chunks[:whole, :body] = flat[: whole * body].reshape(whole, body)
    if whole < used:
        padded = np.full((layout.chunk_rows, *layout.row_shape), fill_value(layout.dtype), layout.dtype)
        padded[: len(rows) - whole * layout.chunk_rows] = rows[whole * layout.chunk_rows :]
        chunks[whole, :body] = padded.reshape(-1).view(np.uint8)
    index = np.full((layout.num_chunks, 2), ABSENT, "<u8")
    index[:used, 0] = np.arange(used, dtype="<u8") * step
    index[:used, 1] = layout.chunk_bytes
    for chunk in chunks:
        chunk[body:] = np.frombuffer(struct.pack("<I", crc32c(chunk[:body].tobytes())), np.uint8)
    raw = index.tobytes()
    shard[end:] = raw + struct.pack("<I", crc32c(raw))
    return shard


def parse_index(tail: bytes, layout: ArrayLayout, size: int, *, what: str) -> np.ndarray:
    """Check and return a shard's index.

    Parameters
    ----------
    tail : bytes
        The last `layout.index_bytes` bytes of the shard.
    size : int
        Bytes of the whole shard.
    what : str
        The shard's key, for messages.

    Returns
    -------
    ndarray of shape (num_chunks,), int64
        Offset of each chunk, -1 where it is absent.

    Raises
    ------
    CorruptDataError
        If the index fails its checksum or points outside the shard.
    """
    if len(tail) != layout.index_bytes:
        raise CorruptDataError(
            f"{what}: expected at least {layout.index_bytes} bytes, found {size}; the shard is torn, "
            "run `scale verify --repair` and extract again"
        )
    if crc32c(tail[:-4]) != struct.unpack("<I", tail[-4:])[0]:
        raise CorruptDataError(f"{what}: the shard's index fails its checksum; run `scale verify --repair`")
    index = np.frombuffer(tail[:-4], "<u8").reshape(-1, 2)
    absent = (index == ABSENT).all(axis=1)
    offsets, lengths = index[:, 0], index[:, 1]
    limit = size - layout.index_bytes
    bad = ~absent & (
        (lengths != layout.chunk_bytes) | (offsets > max(limit - layout.chunk_bytes, 0)) | (limit < layout.chunk_bytes)
    )
    if bad.any():
        raise CorruptDataError(
            f"{what}: expected chunks of {layout.chunk_bytes} bytes inside {limit} bytes, "
            f"found another place or length for chunk {int(np.flatnonzero(bad)[0])}"
        )
    return np.where(absent, np.int64(-1), offsets.astype(np.int64))
