"""Random minibatches out of mapped shards: one copy of each row, from the page cache into the caller's buffer.

What a minibatch costs beside copying is Python's work per row and per shard. So each row of a selection gets a
`memoryview` of its place in the map when it is first read and checked; afterwards a batch is one slice assignment a
row, without a look at shards, ledgers or arrays. `valid` and `geometry` are small and are kept as arrays in memory.
Measured against `np.memmap[rows]` in `benchmarks/store.py`.
"""

from __future__ import annotations

from operator import itemgetter

import numpy as np

from pipeline.reader import SetReader


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
        self._zeros = memoryview(bytes(self._row_bytes))
        self._places: list[memoryview] = [self._zeros] * len(rows)
        self._ready = np.zeros(len(rows), bool)
        self._all_ready = False
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
        if not len(places):
            return
        picked = places.tolist()
        views = itemgetter(*picked)(self._places) if len(picked) > 1 else (self._places[picked[0]],)
        target, size, at = out["values"].reshape(-1).view(np.uint8).data, self._row_bytes, 0
        for view in views:
            target[at : at + size] = view
            at += size

    def _prepare(self, places: np.ndarray) -> None:
        """Check rows that are read for the first time, and remember where they lie."""
        if not len(places):
            return
        rows = self.rows[places]
        small = {name: np.empty((len(places), *array.shape[1:]), array.dtype) for name, array in self._small.items()}
        self._reader.read(rows, small)
        for name, array in small.items():
            self._small[name][places] = array
        for place, row in zip(places.tolist(), self._reader.row_views(rows), strict=True):
            if row is not None:
                self._places[place] = row.reshape(-1).view(np.uint8).data
        self._ready[places] = True
        self._all_ready = bool(self._ready.all())
