"""Random minibatches out of mapped shards: one copy of each row, from the page cache into the caller's buffer.

What a minibatch costs beside copying is Python's work per row and per shard. So the place of each row of a selection
is noted when its shard is first touched, for all rows of the shard at once; a batch is then one slice assignment a row,
out of one `memoryview` a shard, without a look at ledgers or arrays. `valid` and `geometry` are small, are checked then
and kept as arrays in memory. In the first epoch the checksum of a row's values is taken right after it was copied.

What was tried, against `np.memmap[rows]` (`benchmarks/store.py`): Python's part is a twentieth of the time, the rest is
memcpy, which is fastest between aligned ends; hence aligned chunks and buffers. A `memoryview` a row is slower than
slicing one a shard, for the objects do not fit into the processor's cache. numpy could copy all rows in one call, but
only into memory of its own choosing. Two threads gain nothing where memory is the limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import google_crc32c
import numpy as np

from pipeline.sets.mapped import ShardRows
from pipeline.sets.set_files import SetSpec
from pipeline.storage.layout import split_by_shard


class MappedRows(Protocol):
    """What reads a mapped set; :class:`pipeline.sets.reader.SetReader`."""

    spec: SetSpec

    def locate(
        self,
        rows: np.ndarray,
        parts: Iterable[slice] | None = None,
        *,
        check: bool = True,
        out: dict[str, np.ndarray] | None = None,
    ) -> Iterator[tuple[slice | np.ndarray, ShardRows, np.ndarray, np.ndarray]]:
        """Yield which rows lie in which shard, where, and with which checksums; copy checked rows of some arrays."""


class HostGather:
    """Rows of one selection, ready to be gathered in any order.

    Parameters
    ----------
    reader : MappedRows
        Of a mapped set.
    rows : ndarray of shape (n,), int64
        Ascending.
    """

    def __init__(self, reader: MappedRows, rows: np.ndarray) -> None:
        self.rows = rows
        self._reader = reader
        self._row_bytes = reader.spec.array("values").layout.row_bytes
        self._memory = [memoryview(bytes(self._row_bytes))]
        """Pieces of shards; the first one is zeros, for rows without values."""
        self._first_piece: dict[ShardRows, int] = {}
        """Where in `_memory` the pieces of a shard begin."""
        self._piece = np.zeros(len(rows), np.int64)
        self._start = np.zeros(len(rows), np.int64)
        """Of each row: its piece, and its first byte therein."""
        self._checksum = np.zeros(len(rows), np.uint32)
        self._is_checked = np.zeros(len(rows), bool)
        """Of each row: what its values must have, and whether they were held to it."""
        self._all_checked = False
        self._parts = [part for _, part in split_by_shard(rows, reader.spec.shard_rows)]
        self._part_of = np.repeat(np.arange(len(self._parts)), [part.stop - part.start for part in self._parts])
        self._is_located = np.zeros(len(self._parts), bool)
        """Of each shard: whether the places of its rows are known."""
        self._slots: list[slice] = []
        """Bytes of a batch that belong to its first, second, ... row."""
        self._small = {
            a.name: np.empty((len(rows), *a.layout.row_shape), a.layout.dtype)
            for a in reader.spec.arrays
            if a.name != "values"
        }

    def read(self, places: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Copy rows into buffers.

        Parameters
        ----------
        places : ndarray of shape (n,), int64
            Places in the selection, ascending.
        out : dict of ndarray
            As for :meth:`pipeline.sets.reader.SetReader.read`; contiguous.
        """
        if not self._all_checked:
            self._locate_shards(places)
        for name, array in self._small.items():
            np.take(array, places, axis=0, out=out[name], mode="clip")  # "clip": "raise" would buffer the output
        size = self._row_bytes
        if len(self._slots) < len(places):
            self._slots = [slice(at, at + size) for at in range(0, len(places) * size, size)]
        values = out["values"].reshape(-1).view(np.uint8)
        target, memory, start = values.data, self._memory, self._start[places]
        where = zip(self._slots, self._piece[places].tolist(), start.tolist(), (start + size).tolist(), strict=False)
        if self._all_checked:
            for slot, piece, first, stop in where:
                target[slot] = memory[piece][first:stop]
            return
        checksum, found = google_crc32c.value, []
        copied = values.view()
        copied.flags.writeable = False  # the checksum's library takes only what stays as it is
        for slot, piece, first, stop in where:
            target[slot] = memory[piece][first:stop]
            found.append(checksum(copied[slot]))  # while the row lies in the processor's cache
        is_wrong = (np.array(found, np.uint32) != self._checksum[places]) & ~self._is_checked[places]
        if is_wrong.any():
            self._read_again(places[is_wrong], out["values"], np.flatnonzero(is_wrong))
        self._is_checked[places] = True
        # Rows that were never located count as checked where looking for them failed: they are not.
        self._all_checked = bool(self._is_checked.all() and self._is_located.all())

    def _locate_shards(self, places: np.ndarray) -> None:
        """Note where all rows of the shards lie that are touched for the first time; check what is small of them."""
        parts = self._part_of[places]
        parts = parts[np.flatnonzero(np.diff(parts, prepend=-1))]  # np.unique would import numpy.ma: as four shards
        numbers = parts[~self._is_located[parts]]
        if not len(numbers):
            return
        new = [self._parts[number] for number in numbers.tolist()]
        for part in new:
            self._is_checked[part] = True  # a row without values has none to check
        for which, values, local, checksums in self._reader.locate(self.rows, new, check=False, out=self._small):
            self._note(which, values, local)
            self._checksum[which] = checksums
            self._is_checked[which] = False
        self._is_located[numbers] = True

    def _note(self, places: slice | np.ndarray, values: ShardRows, local: np.ndarray) -> None:
        first = self._first_piece.get(values)
        if first is None:
            first = self._first_piece[values] = len(self._memory)
            self._memory.extend(raw.data for raw in values.raw)
        piece, self._start[places] = values.locate(local)
        self._piece[places] = first + piece

    def _read_again(self, places: np.ndarray, target: np.ndarray, at: np.ndarray) -> None:
        """Read rows that do not match from what a writer set aside; raises where there is no such thing."""
        self._is_located[self._part_of[places]] = False  # so that a batch after an error finds the same
        for which, values, local, _ in self._reader.locate(self.rows[places]):
            self._note(places[which], values, local)
            for k, row in zip(at[which].tolist(), local.tolist(), strict=True):
                target[k] = values.row(row)
        self._is_located[self._part_of[places]] = True
