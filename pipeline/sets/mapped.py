"""One shard of one array, readable in place: mapped (local), fetched whole (object store) or decoded by zarr (foreign).

An uncompressed shard with chunks of one row is a plain strided array once it is mapped: rows of `row_bytes`, a
checksum and padding between them. Reading a range is then a view, and a random minibatch copies each row once, from
the page cache into the caller's buffer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.crc_runs import joined_crc32c
from pipeline.storage.layout import ArrayLayout, shard_range
from pipeline.storage.memory import map_file, open_regular
from pipeline.storage.schema import shard_key
from pipeline.storage.shardfile import crc32c, parse_index

MAX_FOREIGN_CHUNK_BYTES = 1 << 30
"""Largest chunk of a foreign array that is decoded."""
COPY_ROW_BYTES = 2048
"""Rows of at least this size are copied one by one; below it numpy's own gather is faster (measured)."""


class ShardRows:
    """The rows of one shard that are there, without copying them.

    Parameters
    ----------
    pieces : list of ndarray
        Views of shape (chunk_rows, *row_shape), or one view of the whole shard.
    raw : list of ndarray of uint8
        The bytes of every piece, from its first row to the end of its last, flat and read-only.
    rows_per_piece : int
        Rows of every piece (the last may hold fewer).
    num_bytes : int
        Memory that this object keeps (0 when mapped).
    """

    def __init__(
        self, pieces: list[np.ndarray], raw: list[np.ndarray], rows_per_piece: int, num_bytes: int = 0
    ) -> None:
        self._pieces = pieces
        self.raw = raw
        self._rows_per_piece = rows_per_piece
        self.num_bytes = num_bytes
        self.num_rows = sum(map(len, pieces))
        self.row_bytes = pieces[0][0].nbytes if self.num_rows else 0

    def checksums(self, local: np.ndarray) -> np.ndarray:
        """Return the crc32c of rows, uint32.

        Parameters
        ----------
        local : ndarray of shape (n,), int64
            Row numbers inside the shard.
        """
        raw, (pieces, starts), checksum = self.raw, self.locate(local), google_crc32c.value
        where = zip(pieces.tolist(), starts.tolist(), (starts + self.row_bytes).tolist(), strict=True)
        return np.array([checksum(raw[piece][start:stop]) for piece, start, stop in where], np.uint32)

    def run_checksum(self, start: int, stop: int) -> int | None:
        """Return the crc32c of rows ``[start, stop)`` as one run of bytes, None where they do not lie together."""
        view = self.view(start, stop)
        if view is None or not view.flags.c_contiguous:
            return None
        return int(google_crc32c.value(view.reshape(-1).view(np.uint8)))

    def locate(self, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where rows lie in `raw`: the piece of each, and its first byte therein."""
        if len(self._pieces) == 1:
            return np.zeros(len(local), np.int64), local * self._pieces[0].strides[0]
        piece, inside = np.divmod(local, self._rows_per_piece)
        return piece, inside * self._pieces[0].strides[0]

    def row(self, local: int) -> np.ndarray:
        """Return one row as a view."""
        piece, inside = divmod(local, self._rows_per_piece)
        return self._pieces[piece][inside]

    def view(self, start: int, stop: int) -> np.ndarray | None:
        """Return rows ``[start, stop)`` as one view, or None where they lie in several chunks."""
        first, last = start // self._rows_per_piece, (stop - 1) // self._rows_per_piece
        if first != last:
            return None
        base = first * self._rows_per_piece
        return self._pieces[first][start - base : stop - base]

    def gather(self, local: np.ndarray, out: np.ndarray) -> None:
        """Copy rows into `out`.

        Parameters
        ----------
        local : ndarray of shape (n,), int64
            Row numbers inside the shard.
        out : ndarray of shape (n, *row_shape)
            Written in full.
        """
        n = len(local)
        if n > 1 and local[-1] - local[0] == n - 1 and (np.diff(local) == 1).all():
            view = self.view(int(local[0]), int(local[-1]) + 1)
            if view is not None:
                out[:] = view
                return
        if len(self._pieces) == 1:
            piece = self._pieces[0]
            row_bytes = piece.strides[0]
            if row_bytes < COPY_ROW_BYTES or n > 64:
                if piece.flags.c_contiguous and out.flags.c_contiguous:
                    np.take(piece, local, axis=0, out=out, mode="clip")  # "clip": or numpy buffers the whole output
                    return
                if row_bytes < COPY_ROW_BYTES:
                    out[:] = piece[local]
                    return
            for i, k in enumerate(local.tolist()):
                out[i] = piece[k]
            return
        for i, k in enumerate(local.tolist()):
            out[i] = self.row(k)


def open_shard(
    backend: StorageBackend, array: str, layout: ArrayLayout | None, shard: int, expected: ArrayLayout
) -> ShardRows:
    """Open one shard of an array.

    Parameters
    ----------
    array : str
        Key of the array's folder.
    layout : ArrayLayout or None
        None: let zarr decode it.
    expected : ArrayLayout
        How this version would write it: what the rows of any other form must look like.

    Raises
    ------
    NotFoundError
        If the shard is not there.
    CorruptDataError
        If it is torn or its index does not hold.
    """
    if layout is None:
        return _decode_with_zarr(backend, array, shard, expected)
    return open_shard_file(backend, shard_key(array, shard, layout.ndim), layout)


def open_shard_file(backend: StorageBackend, key: str, layout: ArrayLayout) -> ShardRows:
    """Open a shard by its key; see :func:`open_shard`."""
    path = backend.local_name(key)
    if path is None:
        data = np.frombuffer(backend.read(key), np.uint8)
        kept = data.size
    else:
        try:
            data = map_file(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise NotFoundError(f"expected the shard {key} in {backend.url}, found no such file") from None
        kept = 0
    tail = data[max(data.size - layout.index_bytes, 0) :].tobytes()
    try:
        places = _places(tail, layout, data.size)
    except CorruptDataError as err:
        parse_index(tail, layout, data.size, what=key)  # says which file it is
        raise CorruptDataError(f"{key}: {err}") from None
    if places.step:
        start, n = places.offsets[0], len(places.offsets)
        shape, strides = (n, *layout.row_shape), (places.step, *_inner_strides(layout))
        rows = np.ndarray(shape, layout.dtype, buffer=data, offset=start, strides=strides)
        whole = data[start : start + (n - 1) * places.step + layout.row_bytes]
        return ShardRows([rows], [whole], layout.shard_rows, kept)
    shape, body = (layout.chunk_rows, *layout.row_shape), layout.chunk_rows * layout.row_bytes
    raw = [data[o : o + body] for o in places.offsets]
    return ShardRows([piece.view(layout.dtype).reshape(shape) for piece in raw], raw, layout.chunk_rows, kept)


class WholeShard(NamedTuple):
    """A full shard of one chunk, and which of its rows are wanted where."""

    key: str
    checksums: np.ndarray
    """(shard_rows,) uint32: what its rows must have."""
    local: np.ndarray | None
    """Rows that are wanted, ascending; None: all of them."""
    out: np.ndarray
    """(n, *row_shape), contiguous, of the layout's dtype: where they are copied to."""


def read_whole_shards(backend: StorageBackend, layout: ArrayLayout, shards: Sequence[WholeShard]) -> np.ndarray:
    """Read small shards as files and check each as a whole: quicker than to map them and to check their rows.

    Returns
    -------
    ndarray of shape (len(shards),), bool
        Which were read. Of the others, `out` is undefined: a file is not there, or is not what it should be;
        :func:`open_shard` says what.
    """
    found, is_read = np.zeros(len(shards), np.uint32), np.zeros(len(shards), bool)
    scratch = np.empty((layout.shard_rows, *layout.row_shape), layout.dtype)
    size, end = scratch.nbytes, bytearray(4 + layout.index_bytes)
    for number, shard in enumerate(shards):
        path = backend.local_name(shard.key)
        target = (scratch if shard.local is not None else shard.out).reshape(-1).view(np.uint8)
        if path is None or target.nbytes != size:
            continue
        try:
            fd = open_regular(path)
            try:
                num_read = os.readv(fd, [target.data, end, bytearray(1)])
            finally:
                os.close(fd)
            if num_read != size + len(end) or _places(bytes(end[4:]), layout, num_read).offsets != (0,):
                continue
        except (OSError, CorruptDataError):
            continue
        target.flags.writeable = False  # the checksum's library takes only what stays as it is
        found[number], is_read[number] = google_crc32c.value(target), True
        if shard.local is not None:
            np.take(scratch, shard.local, axis=0, out=shard.out, mode="clip")
    expected = joined_crc32c(np.array([shard.checksums for shard in shards], np.uint32), layout.row_bytes)
    return is_read & (found == expected)


class _Places(NamedTuple):
    """Where the chunks of a shard are."""

    offsets: tuple[int, ...]
    step: int
    """Bytes from each to the next where they are rows at equal distances, else 0."""


@lru_cache(maxsize=64)
def _places(tail: bytes, layout: ArrayLayout, size: int) -> _Places:
    """Check a shard's index; the full shards of an array all have the same one, byte for byte."""
    offsets = parse_index(tail, layout, size, what="a shard")
    absent = np.flatnonzero(offsets < 0)
    used = int(absent[0]) if absent.size else len(offsets)
    if (offsets[used:] >= 0).any():
        raise CorruptDataError(f"expected chunks without gaps, found chunk {used} absent")
    step = int(offsets[1] - offsets[0]) if used > 1 else layout.chunk_step
    is_even = used and step > 0 and (offsets[:used] == offsets[0] + np.arange(used) * step).all()
    return _Places(tuple(offsets[:used].tolist()), step if layout.chunk_rows == 1 and is_even else 0)


def chunks_hold(backend: StorageBackend, key: str, layout: ArrayLayout) -> bool:
    """Return whether every chunk of a shard matches the crc32c that Zarr keeps behind it, with zeros between them."""
    data = backend.read(key)
    end = len(data) - layout.index_bytes
    offsets = parse_index(data[max(end, 0) :], layout, len(data), what=key)
    covered = 0
    for start in sorted(offsets[offsets >= 0].tolist()):
        stop = start + layout.chunk_bytes
        expected = int.from_bytes(data[stop - 4 : stop], "little")
        if any(data[covered:start]) or crc32c(data[start : stop - 4]) != expected:
            return False
        covered = stop
    return not any(data[covered:end])


def _inner_strides(layout: ArrayLayout) -> tuple[int, ...]:
    strides, step = [], layout.dtype.itemsize
    for n in reversed(layout.row_shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


def _decode_with_zarr(backend: StorageBackend, array: str, shard: int, expected: ArrayLayout) -> ShardRows:
    """Read one shard's worth of rows of an array in any form that zarr reads: compressed, or cut in another way."""
    import zarr
    from zarr.errors import BaseZarrError

    store: Any = backend.zarr_store(read_only=True)
    try:
        node = zarr.open_array(store, path=array, mode="r")
        found = (tuple(node.shape[1:]), node.dtype.newbyteorder("="))
        if found != (expected.row_shape, expected.dtype.newbyteorder("=")):
            raise CorruptDataError(
                f"{array}: expected rows {expected.row_shape} {expected.dtype}, found {found[0]} {found[1]}"
            )
        if prod(node.chunks) * node.dtype.itemsize > MAX_FOREIGN_CHUNK_BYTES:
            raise CorruptDataError(
                f"{array}: expected chunks of at most {MAX_FOREIGN_CHUNK_BYTES} bytes, found {node.chunks}; "
                "the metadata is damaged or forged"
            )
        start, stop = shard_range(shard, expected.shard_rows, int(node.shape[0]))
        rows = np.ascontiguousarray(node[start:stop])
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, BaseZarrError) as err:
        raise CorruptDataError(f"{array}: expected shard {shard} to decode, found: {err}") from err
    rows.flags.writeable = False
    return ShardRows([rows], [rows.reshape(-1).view(np.uint8)], expected.shard_rows, rows.nbytes)
