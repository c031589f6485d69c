"""What a handle of a dataset has pinned: commits, side files and ledgers as they stood when it was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from pipeline.errors import ConflictError
from pipeline.sets.binding import video_keys
from pipeline.storage.guard import ForkGuard
from pipeline.storage.layout import num_shards
from pipeline.store.catalogue import Catalogue
from pipeline.store.facts import fact_lines
from pipeline.store.labels import HAND, ChangedLabels, label_lines
from pipeline.store.pinned_sets import PinnedNames, PinnedSets
from pipeline.store.previews import Preview, Previews
from pipeline.store.rows import SideCounts, SideState
from pipeline.store.side_files import SideFiles
from pipeline.store.video_rows import VideoRows

if TYPE_CHECKING:
    from pipeline.sets.handles import StoreHandle


class Pinned:
    """The state that :class:`pipeline.store.dataset.Dataset` answers from; pickles as an address and a few numbers."""

    def __init__(self, store: StoreHandle, name: str, shard_rows: int) -> None:
        self._open(store, name, shard_rows)

    def _open(
        self,
        store: StoreHandle,
        name: str,
        shard_rows: int,
        num_commits: int | None = None,
        pinned: PinnedNames | None = None,
        side: SideCounts | None = None,
    ) -> None:
        self._store = store
        self.backend = self._backend = store.backend
        self._guard = ForkGuard()
        self.name = name
        self.shard_rows = shard_rows
        self._pinned = Catalogue(self._backend, name, num_commits)
        self._side = SideState(self._backend, name, side)
        self._rows = VideoRows(self._backend, name, self._pinned, self._side.removed_rows, self._side.states)
        self._sets = PinnedSets(self._backend, name, self._rows, pinned, hidden=self._side.removed_rows)
        self._previews = Previews(self._backend, name, shard_rows, self._rows)
        self._is_whole = False

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.num_videos} videos, {self._store.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        pinned = (self._pinned.num_commits, self._sets.pinned(), self._side.counts)
        return _reopened, (type(self), self._store, self.name, self.shard_rows, *pinned)

    @property
    def _catalogue(self) -> Catalogue:
        """The catalogue, once no ledger knows rows that it lacks: with fewer rows than there are nobody is answered."""
        if not self._is_whole:
            self._sets.check_catalogue(self._pinned.num_rows, self.shard_rows)
            self._is_whole = True
        return self._pinned

    def refresh(self) -> Self:
        """Return a new handle that sees the present."""
        return type(self)(self._store, self.name, self.shard_rows)

    @property
    def num_rows(self) -> int:
        """Rows of every array: videos, and those that were removed."""
        return self._catalogue.num_rows

    @property
    def num_videos(self) -> int:
        """Videos."""
        return len(self._present_rows())

    @property
    def num_shards(self) -> int:
        """Shards that the rows fill."""
        return num_shards(self.num_rows, self.shard_rows)

    @property
    def videos(self) -> pa.Table:
        """The catalogue, CATALOGUE_SCHEMA, ordered by row: what counts now, without the videos that were removed."""
        whole = self.by_row
        return whole.take(pa.array(self._present_rows())) if len(self._side.removed_rows) else whole

    @property
    def by_row(self) -> pa.Table:
        """The catalogue with a line for every row in its place; a removed row is a tombstone that says nothing."""
        self._guard.check()
        return self._side.by_row(self._catalogue)

    def lines_of(self, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the lines of some rows, in the order given; of a large catalogue the others are not read."""
        self._guard.check()
        return self._side.lines_of(self._catalogue, np.asarray(rows, np.int64))

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield :attr:`videos` piece by piece, by row, in bounded memory.

        Parameters
        ----------
        columns : sequence of str, optional
            Which are wanted; None: all of CATALOGUE_SCHEMA.
        """
        self._guard.check()
        return self._side.parts(self._catalogue, columns)

    def row_of(self, video_id: str) -> int:
        """Return the row of a video id; NotFoundError if there is none."""
        row = self._catalogue.row_of(video_id)
        if row in self._side.removed_rows:
            raise self._catalogue.unknown(video_id)
        return row

    def preview(self, row: int) -> Preview | None:
        """Return the small pictures of a video that extraction kept; None where it kept none (see `previews`).

        Raises
        ------
        CorruptDataError, WrongVideoError
            If what was kept is damaged, or another video's.
        """
        self._guard.check()
        return self._previews.of(row)

    def save_previews(self, strips: Mapping[int, Preview]) -> int:
        """Keep small pictures of some rows, in the place of those they had. Returns how many are new or others."""
        self._check_writable()
        return self._previews.save(strips)

    def rows_labelled_by_hand(self) -> list[int]:
        """Return the rows whose labels were given by hand, ascending."""
        state = self._side.labels.state
        rows = [row for row, by in zip(state["row"].to_pylist(), state["by"].to_pylist(), strict=True) if by == HAND]
        return [row for row in rows if row not in self._side.removed_rows]

    def looked_at(self) -> dict[int, datetime]:
        """Return when the files of rows were looked at that were catalogued again; of the others `added_at` says it."""
        state = self._side.facts.state
        return dict(zip(state["row"].to_pylist(), state["changed_at"].to_pylist(), strict=True))

    def rows_with_features(self, rows: Sequence[int]) -> list[int]:
        """Return those of some rows of which any feature set holds a valid crop, ascending."""
        return self._sets.rows_with_features(rows, self.shard_rows)

    def preview_labels(self, changes: Mapping[int, Mapping[str, Any]]) -> ChangedLabels:
        """Return what :meth:`Dataset.change_labels` would do; nothing is written."""
        return label_lines(self.by_row, video_keys(self.by_row["video_id"].to_pylist()), changes, HAND)[1]

    def _rows_of(self, video_ids: Sequence[str]) -> np.ndarray:
        rows = self._catalogue.rows_of(video_ids)
        gone = np.flatnonzero(np.isin(rows, self._side.removed_rows))
        if gone.size:
            raise self._catalogue.unknown(video_ids[int(gone[0])])
        return rows

    def _present_rows(self) -> np.ndarray:
        return self._side.present(self._catalogue)

    def _change_labels(self, rows: np.ndarray, changes: Mapping[int, Mapping[str, Any]], by: str) -> ChangedLabels:
        done = ChangedLabels(0, 0)

        def lines(seen: SideFiles) -> pa.Table:
            nonlocal done
            self._side = SideState(self._backend, self.name)
            wanted = {row: changes[row] for row in rows.tolist() if row not in self._side.removed_rows}
            keys = video_keys(self.by_row["video_id"].to_pylist())
            table, done = label_lines(self.by_row, keys, wanted, by, self.rows_labelled_by_hand())
            return table

        self._side.labels.commit(lines)
        self._side = SideState(self._backend, self.name)
        return done

    def _change_facts(self, rows: np.ndarray, facts: Mapping[int, Mapping[str, Any]]) -> int:
        num_changed = 0

        def lines(seen: SideFiles) -> pa.Table:
            nonlocal num_changed
            ids = self.by_row["video_id"].take(pa.array(rows)).to_pylist()
            table = fact_lines(seen, ids, facts, self._side.removed_rows.tolist())
            num_changed = table.num_rows
            return table

        self._side.facts.commit(lines)
        self._open(self._store, self.name, self.shard_rows)
        return num_changed

    def _check_writable(self) -> None:
        self._guard.check()
        if self._store.mode == "r":
            message = f"expected a store opened for writing, found {self._store.url} opened with mode 'r'; "
            raise ConflictError(message + "use FeatureStore.open(url, mode='a')")


def _reopened(
    kind: type[Pinned],
    store: StoreHandle,
    name: str,
    shard_rows: int,
    num_commits: int,
    pinned: PinnedNames,
    side: SideCounts,
) -> Pinned:
    """Return the handle that was pickled, in another process: it sees what the first one saw."""
    handle = object.__new__(kind)
    handle._open(store, name, shard_rows, num_commits, pinned, side)
    return handle
