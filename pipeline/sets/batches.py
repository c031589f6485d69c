"""Batches for training, in two modes with one promise: seeded, resumable, every row exactly once an epoch.

host
    Any row may follow any other: one permutation of all rows. For data that fits into memory, mapped or fetched once.
stream
    Blocks of whole shards are read one after another, in a permuted order, and shuffled in memory, while a thread
    reads the next block. For data larger than memory, or remote. Memory: `block_bytes`, however large the store.

The order is a pure function of (rows, shard_rows, seed, epoch, mode, block_bytes), so batch number k is the same
batch after a restart. Inside a batch rows ascend: which rows meet is random, their order in the batch is not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.sets.blocks import FeatureBlock, Mode, allocate
from pipeline.sets.buffers import BufferRing
from pipeline.sets.reader import MAX_OPEN_SHARDS, SetReader
from pipeline.storage.layout import split_by_shard

DEFAULT_BLOCK_BYTES = 1 << 30
HOST_SHARE = 0.5
"""Up to this share of the machine's memory `auto` picks host."""


def iterate(
    reader: SetReader,
    rows: np.ndarray,
    *,
    batch_size: int = 512,
    shuffle: bool = True,
    seed: int = 0,
    epoch: int = 0,
    mode: Mode = "auto",
    drop_last: bool = False,
    out: FeatureBlock | None = None,
    start_batch: int = 0,
    block_bytes: int | None = None,
) -> Iterator[FeatureBlock]:
    """Yield the rows once, in batches.

    Parameters
    ----------
    reader : SetReader
    rows : ndarray of shape (n,), int64
        Ascending.
    batch_size : int
    shuffle : bool
        Otherwise ascending.
    seed, epoch : int
        Decide the order.
    mode : {"auto", "host", "stream"}
    drop_last : bool
        Leave out a last batch that is not full.
    out : FeatureBlock, optional
        Buffers of at least `batch_size` rows (pinned memory, say) that every batch is written into; a batch is then
        only good until the next one. Otherwise every batch has memory of its own for as long as anybody holds it.
    start_batch : int
        Go on here: batches before it are neither read nor yielded.
    block_bytes : int, optional
        Memory for stream mode's two blocks; 1 GiB by default.

    Raises
    ------
    InvalidInputError, ShapeMismatchError
        Impossible sizes, or `out` of other shapes.
    CorruptDataError, SnapshotChangedError
        While iterating; see :class:`SetReader`.
    """
    if batch_size < 1 or start_batch < 0:
        raise InvalidInputError(f"expected batch_size >= 1 and start_batch >= 0, found {batch_size}, {start_batch}")
    if mode not in ("auto", "host", "stream"):
        raise InvalidInputError(f"expected mode auto, host or stream, found {mode!r}")
    if out is not None:
        _check_out(reader, out, batch_size)
    if mode == "auto":
        mode = "host" if len(rows) * reader.spec.row_bytes <= HOST_SHARE * _memory_bytes() else "stream"
    stop = len(rows) // batch_size * batch_size if drop_last else len(rows)
    starts = range(start_batch * batch_size, stop, batch_size)
    if mode == "host":
        order = _permutation(len(rows), shuffle, seed, epoch)
        return _host(reader, rows, order, starts, batch_size, out)
    budget = DEFAULT_BLOCK_BYTES if block_bytes is None else block_bytes
    blocks = plan_blocks(
        rows,
        reader.spec.shard_rows,
        max(budget // 2 // reader.spec.row_bytes, 1),
        shuffle=shuffle,
        seed=seed,
        epoch=epoch,
    )
    return _stream(reader, blocks, starts, batch_size, out)


def ordered(
    rows: np.ndarray,
    read: Callable[[np.ndarray], FeatureBlock],
    *,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epoch: int,
    drop_last: bool,
    out: FeatureBlock | None,
    start_batch: int,
) -> Iterator[FeatureBlock]:
    """Yield rows that stand in an order of their own, or more than once: as :func:`iterate`, each batch read alone.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
    read : callable
        Returns the features of these places in `rows`, in their order.
    """
    if batch_size < 1 or start_batch < 0:
        raise InvalidInputError(f"expected batch_size >= 1 and start_batch >= 0, found {batch_size}, {start_batch}")
    order = _permutation(len(rows), shuffle, seed, epoch)
    stop = len(rows) // batch_size * batch_size if drop_last else len(rows)
    for start in range(start_batch * batch_size, stop, batch_size):
        block = read(order[start : min(start + batch_size, stop)])
        if out is not None:
            n = len(block)
            out.values[:n], out.valid[:n], out.geometry[:n] = block.values, block.valid, block.geometry
            block = FeatureBlock(out.values[:n], out.valid[:n], out.geometry[:n], block.rows)
        yield block


@dataclass(frozen=True, eq=False)
class Block:
    """Rows that are in memory at the same time."""

    rows: np.ndarray
    """(n,) int64, ascending."""
    order: np.ndarray
    """(n,) int64: places in `rows`, in the order in which they are handed out."""
    start: int
    """Place of its first row in the epoch."""


def plan_blocks(
    rows: np.ndarray, shard_rows: int, block_rows: int, *, shuffle: bool, seed: int, epoch: int
) -> list[Block]:
    """Deal the shards that `rows` touch into blocks of about `block_rows` rows (a shard is never cut).

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Ascending.

    Returns
    -------
    list of Block
        Together they hold every row once.
    """
    parts = [part for _, part in split_by_shard(rows, shard_rows)]
    if shuffle:
        parts = [parts[i] for i in np.random.default_rng([seed, epoch, 1]).permutation(len(parts)).tolist()]
    blocks: list[Block] = []
    gathered: list[slice] = []
    size = start = 0

    def close() -> None:
        nonlocal gathered, size, start
        if gathered:
            held = np.sort(np.concatenate([rows[p] for p in gathered]))
            blocks.append(Block(held, _permutation(len(held), shuffle, seed, epoch, 2 + len(blocks)), start))
            start += len(held)
        gathered, size = [], 0

    for part in parts:
        if size and size + part.stop - part.start > block_rows:
            close()
        gathered.append(part)
        size += part.stop - part.start
    close()
    return blocks


def _permutation(n: int, shuffle: bool, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(n) if shuffle else np.arange(n)


def _host(
    reader: SetReader,
    rows: np.ndarray,
    order: np.ndarray,
    starts: range,
    batch_size: int,
    out: FeatureBlock | None,
) -> Iterator[FeatureBlock]:
    gather = resident = None
    if reader.is_mapped and len(rows) <= MAX_OPEN_SHARDS // len(reader.spec.arrays) * reader.spec.shard_rows:
        gather = reader.host_gather(rows)
    else:
        resident = reader.resident(rows)
    buffers = _Buffers(reader, out, batch_size)

    def batch(start: int) -> FeatureBlock:
        places = np.sort(order[start : start + batch_size])
        arrays = buffers.take(len(places))
        if gather is not None:
            gather.read(places, arrays)
        elif resident is not None:
            for name, buffer in arrays.items():
                np.take(resident[name], places, axis=0, out=buffer, mode="clip")
        return _block(arrays, rows[places])

    for start in starts:
        yield batch(start)  # and keep no hold of it, so that its memory is free as soon as the caller drops it


def _stream(
    reader: SetReader, blocks: list[Block], starts: range, batch_size: int, out: FeatureBlock | None
) -> Iterator[FeatureBlock]:
    if not starts or not blocks:
        return
    largest = max(len(block.rows) for block in blocks)
    memory = [allocate(reader, largest) for _ in range(min(2, len(blocks)))]

    def load(number: int) -> dict[str, np.ndarray]:
        block = blocks[number]
        arrays = {name: array[: len(block.rows)] for name, array in memory[number % 2].items()}
        reader.read(block.rows, arrays)
        reader.release(block.rows)
        return arrays

    first = next(i for i, block in enumerate(blocks) if block.start + len(block.rows) > starts[0])
    with ThreadPoolExecutor(1, thread_name_prefix="read-block") as pool:
        number, loaded = first, load(first)
        ahead = pool.submit(load, first + 1) if first + 1 < len(blocks) else None
        buffers = _Buffers(reader, out, batch_size)
        for start in starts:
            stop = min(start + batch_size, blocks[-1].start + len(blocks[-1].rows))
            arrays = buffers.take(stop - start)
            pieces: list[np.ndarray] = []
            while True:
                block = blocks[number]
                end = block.start + len(block.rows)
                places = np.sort(block.order[max(start, block.start) - block.start : stop - block.start])
                filled = sum(len(piece) for piece in pieces)
                for name, buffer in arrays.items():
                    np.take(loaded[name], places, axis=0, out=buffer[filled : filled + len(places)], mode="clip")
                pieces.append(block.rows[places])
                if end > stop or ahead is None:
                    break
                number, loaded = number + 1, ahead.result()
                ahead = pool.submit(load, number + 1) if number + 1 < len(blocks) else None
                if end == stop:
                    break
            picked = np.concatenate(pieces)
            if len(pieces) > 1:
                by_row = np.argsort(picked)
                picked = picked[by_row]
                for buffer in arrays.values():
                    buffer[:] = buffer[by_row]
            yield _block(arrays, picked)


class _Buffers:
    """Where batches are written: the caller's memory, or memory of our own."""

    def __init__(self, reader: SetReader, out: FeatureBlock | None, batch_size: int) -> None:
        self._reader, self._out, self._batch_size = reader, out, batch_size
        self._ring: BufferRing | None = None

    def take(self, n: int) -> dict[str, np.ndarray]:
        """Return arrays for a batch of `n` rows."""
        if self._out is not None:
            return {"values": self._out.values[:n], "valid": self._out.valid[:n], "geometry": self._out.geometry[:n]}
        if n < self._batch_size:  # the last one; if it is kept, it should not keep the memory of a whole one
            return allocate(self._reader, n)
        if self._ring is None:
            arrays = self._reader.spec.arrays
            self._ring = BufferRing({a.name: ((n, *a.layout.row_shape), a.layout.dtype) for a in arrays})
        return self._ring.take()


def _block(arrays: dict[str, np.ndarray], rows: np.ndarray) -> FeatureBlock:
    return FeatureBlock(arrays["values"], arrays["valid"], arrays["geometry"], rows)


def _check_out(reader: SetReader, out: FeatureBlock, batch_size: int) -> None:
    for array in reader.spec.arrays:
        buffer = getattr(out, array.name)
        expected = (batch_size, *array.layout.row_shape)
        if buffer.shape[1:] != expected[1:] or len(buffer) < batch_size or buffer.dtype != array.layout.dtype:
            raise ShapeMismatchError(
                f"expected out.{array.name} of shape {expected} in {array.layout.dtype}, found {buffer.shape} in "
                f"{buffer.dtype}; make it with FeatureBlock.empty"
            )
        if not (buffer.flags.c_contiguous and buffer.flags.writeable):
            raise ShapeMismatchError(f"expected out.{array.name} contiguous and writeable, found it otherwise")


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 8 << 30
