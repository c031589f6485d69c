"""The videos of a dataset as they stand: the catalogue's commits, with what its side files say of some rows since.

Labels replace labels. A removed row stays as a tombstone where rows are counted by their place, and is in no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sets.binding import video_keys
from pipeline.store.erase_tables import with_tombstones
from pipeline.store.labels import LABEL_COLUMNS, LABELS, open_labels
from pipeline.store.removals import REMOVED, open_removals
from pipeline.store.side_files import check_keys, overlaid, side_counts

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend
    from pipeline.store.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class SideCounts:
    """How many files of each kind a handle has pinned."""

    labels: int
    removed: int


class SideState:
    """What the side files of a dataset say at one moment.

    Parameters
    ----------
    counts : SideCounts, optional
        How many files of each kind to see; None: all that are there now.
    """

    def __init__(self, backend: StorageBackend, dataset: str, counts: SideCounts | None = None) -> None:
        self._dataset = dataset
        if counts is None:
            counts = SideCounts(**side_counts(backend, dataset, (LABELS, REMOVED)))
        self.labels = open_labels(backend, dataset, counts.labels)
        self.removals = open_removals(backend, dataset, counts.removed)
        self._overlaid: tuple[Catalogue, pa.Table] | None = None

    @property
    def counts(self) -> SideCounts:
        """How many files of each kind this is."""
        return SideCounts(self.labels.count, self.removals.count)

    @cached_property
    def removed_rows(self) -> np.ndarray:
        """Rows that are in no answer any more, ascending, int64."""
        return self.removals.state["row"].to_numpy().astype(np.int64)

    def digests(self) -> list[str]:
        """Return a line for every file, for snapshots; none where there is no file."""
        return [f"\n{files.kind}:{digest}" for files in (self.labels, self.removals) for digest in files.digests()]

    def by_row(self, catalogue: Catalogue) -> pa.Table:
        """Return one line for every row, in its place: what counts now, a tombstone where a video was removed.

        Raises
        ------
        CorruptDataError
            If a side file speaks of other videos than the catalogue has in these rows.
        """
        if self._overlaid is not None and self._overlaid[0] is catalogue:
            return self._overlaid[1]
        videos = catalogue.videos
        state = self.labels.state
        if state.num_rows:
            named = state.filter(pc.invert(pc.is_in(state["row"], value_set=pa.array(self.removed_rows))))
            inside = named.filter(pc.less(named["row"], videos.num_rows))  # others: of an append this handle lacks
            rows = inside["row"].to_numpy()
            keys = np.zeros(videos.num_rows, np.uint64)
            keys[rows] = video_keys(videos["video_id"].take(pa.array(rows)).to_pylist())
            check_keys(inside, keys, what=f"{LABELS} of dataset {self._dataset}")
            videos = overlaid(videos, inside, LABEL_COLUMNS)
        if len(self.removed_rows):
            videos = with_tombstones(videos, self.removed_rows)
        self._overlaid = (catalogue, videos)
        return videos

    def present(self, catalogue: Catalogue) -> np.ndarray:
        """Return the rows that are in answers, ascending."""
        return np.setdiff1d(np.arange(catalogue.num_rows), self.removed_rows, assume_unique=True)
