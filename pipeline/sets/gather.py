"""Random minibatches out of mapped shards: one copy of each row, from the page cache into the caller's buffer.

What a minibatch costs beside copying is Python's work per row and per shard. So the place of each row of a selection
is noted when it is first read and checked; afterwards a batch is one slice assignment a row, out of one `memoryview` a
shard, without a look at ledgers or arrays. `valid` and `geometry` are small and are kept as arrays in memory.

What was tried, against `np.memmap[rows]` (`benchmarks/store.py`): Python's part is a twentieth of the time, the rest is
memcpy, which is fastest between aligned ends; hence aligned chunks and buffers. A `memoryview` a row is slower than
slicing one a shard, for the objects do not fit into the processor's cache. numpy could copy all rows in one call, but
only into memory of its own choosing. Two threads gain nothing where memory is the limit.
"""

from __future__ import annotations

import numpy as np

from pipeline.sets.mapped import ShardRows
from pipeline.sets.reader import SetReader


class HostGather:
    """Rows of one selection, ready to be gathered in any order.

    Parameters
    ----------
    reader : SetReader
        Of a mapped set.
    rows : ndarray of shape (n,), int64
        Ascending.
    """

    def __init__(self, reader: SetReader, rows: np.ndarray) -> None:
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
        self._ready = np.zeros(len(rows), bool)
        self._all_ready = False
        self._slots: list[slice] = []
        """Bytes of a batch that belong to its first, second, ... row."""
        self._small = {
            a.name: np.zeros((len(rows), *a.layout.row_shape), a.layout.dtype)
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
            As for :meth:`SetReader.read`; contiguous.
        """
        if not self._all_ready:
            self._prepare(places[~self._ready[places]])
        for name, array in self._small.items():
            np.take(array, places, axis=0, out=out[name], mode="clip")  # "clip": "raise" would buffer the output
        memory, size = self._memory, self._row_bytes
        if len(self._slots) < len(places):
            self._slots = [slice(at, at + size) for at in range(0, len(places) * size, size)]
        target = out["values"].reshape(-1).view(np.uint8).data
        start = self._start[places]
        where = self._piece[places].tolist(), start.tolist(), (start + size).tolist()
        for slot, piece, first, stop in zip(self._slots, *where, strict=False):
            target[slot] = memory[piece][first:stop]

    def _prepare(self, places: np.ndarray) -> None:
        """Check rows that are read for the first time, and remember where they lie."""
        if not len(places):
            return
        rows = self.rows[places]
        small = {name: np.empty((len(places), *array.shape[1:]), array.dtype) for name, array in self._small.items()}
        self._reader.read(rows, small)
        for name, array in small.items():
            self._small[name][places] = array
        for which, values, local in self._reader.locate(rows):
            if values not in self._first_piece:
                self._first_piece[values] = len(self._memory)
                self._memory.extend(values.memory())
            piece, start = values.locate(local)
            self._piece[places[which]] = self._first_piece[values] + piece
            self._start[places[which]] = start
        self._ready[places] = True
        self._all_ready = bool(self._ready.all())
