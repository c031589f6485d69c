"""Which of the videos that a recipe lists the catalogue knows, and what it says of them, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

_COLUMNS = ("row", "video_id", "bytes", "sha256", "probe_error", "label", "labels", "splits", "group", "added_at")
_ROWS_AT_ONCE = 8192


class Places:
    """Where each id stands in a list, found by 16 bytes an id: the catalogue may be larger than memory.

    Parameters
    ----------
    ids : sequence of str
        Of one that stands there twice the first place counts.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def of(self, ids: Sequence[str]) -> list[int]:
        """Return the place of each of some ids, -1 where it does not stand there."""
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        first = np.searchsorted(self._hashes, hashes, "left").tolist()
        stop = np.searchsorted(self._hashes, hashes, "right").tolist()
        return [self._place(*found) for found in zip(ids, first, stop, strict=True)]

    def _place(self, video_id: str, first: int, stop: int) -> int:
        for place in self._order[first:stop].tolist():  # different ids may share a hash
            if self._ids[place] == video_id:
                return int(place)
        return -1


def known_videos(dataset: Dataset, ids: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield, of every video of a dataset, its place in `ids` (-1: not listed) and the catalogue's line, by row."""
    places = Places(ids)
    for part in dataset.parts(_COLUMNS):
        for batch in part.to_batches(_ROWS_AT_ONCE):
            lines = batch.to_pylist()
            yield from zip(places.of([line["video_id"] for line in lines]), lines, strict=True)
