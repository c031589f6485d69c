"""Which row a video id has: asked of the index where there is one, of the commits' ids where there is none.

Nothing here keeps the catalogue in memory: lookups keep the ids of the commits that no index knows, appends keep 16
bytes a video. What an index or a key says is held to the catalogue's own line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.sets.binding import video_keys
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import column_of, texts_of, values_of
from pipeline.store.commits import BRIEF, HASHED, Commits
from pipeline.store.id_index import IndexFile, Run, open_index

FEW = 1024
"""Ids up to this number are looked for in the row groups that may hold them; for more the index is read whole."""


class KnownIds:
    """The ids of the first `commits.count` commits.

    Parameters
    ----------
    before : KnownIds, optional
        Of an earlier state of the same catalogue: what it has read is used again.
    """

    def __init__(self, backend: StorageBackend, dataset: str, commits: Commits, before: KnownIds | None = None) -> None:
        self._backend, self._dataset, self._commits = backend, dataset, commits
        self._files: list[IndexFile] | None = None
        self._tail: list[tuple[int, pa.ChunkedArray]] = []
        self._tail_from = 0
        self._runs: list[Run] | None = None
        self._runs_stop = 0
        if before is not None:
            self._files = before._files
            self._runs = None if before._runs is None else list(before._runs)
            self._runs_stop = before._runs_stop

    @property
    def files(self) -> list[IndexFile]:
        """The index, looked for once."""
        if self._files is None:
            self._files = open_index(self._backend, self._dataset)
        return self._files

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return the row of each of some different ids, -1 where no video has it."""
        rows = np.full(len(ids), -1, np.int64)
        if not self._commits.count or not len(ids):
            return rows
        keys = video_keys(ids)
        places, found = self._in_files(keys)
        order = np.argsort(found, kind="stable")
        lines = self.lines(found[order], ["video_id"])
        for place, row, line in zip(places[order].tolist(), found[order].tolist(), lines, strict=True):
            if line["video_id"] == ids[place]:
                rows[place] = row
        if (
            rows[places] < 0
        ).any():  # the index says other than the catalogue: erased since, or it is not to be believed
            self._forget(0)
        left = np.flatnonzero(rows < 0)
        if left.size:
            wanted = texts_of([ids[k] for k in left.tolist()])
            for first, column in self._tail_ids():
                at = pc.index_in(column, value_set=wanted)
                held = values_of(pc.indices_nonzero(at.is_valid())).astype(np.int64)
                rows[left[values_of(at.drop_null())]] = first + held
        return rows

    def known(self, ids: Sequence[str]) -> tuple[np.ndarray, list[str | None]]:
        """Return, of different ids, which are known and the sha256 of their files; for appends, again and again."""
        keys = video_keys(ids)
        is_known = np.zeros(len(ids), bool)
        hashes: list[str | None] = [None] * len(ids)
        places, rows = self._in_files(keys)
        self._hash_tail()
        assert self._runs is not None
        for run in self._runs:
            more, where = run.find(keys)
            places, rows = np.concatenate([places, more]), np.concatenate([rows, where])
        order = np.argsort(rows, kind="stable")
        lines = self.lines(rows[order], ["video_id", "sha256"])
        for place, line in zip(places[order].tolist(), lines, strict=True):
            if line["video_id"] == ids[place]:
                is_known[place], hashes[place] = True, line["sha256"]
        if self.files and not is_known[places].all():
            self._forget(0)
            return self.known(ids)
        return is_known, hashes

    def _forget(self, num_files: int) -> None:
        """Believe no more than the first files of the index, and look at the commits behind them."""
        self._files = self.files[:num_files]
        self._tail, self._tail_from, self._runs, self._runs_stop = [], 0, None, 0

    def _in_files(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        stop = self._commits.stop
        for file in list(self.files):
            try:
                found = file.find(keys) if len(keys) <= FEW else file.whole.find(keys)
            except (CorruptDataError, NotFoundError):  # damaged, or merged into another: scan from there on
                self._forget(self.files.index(file))
                break
            places.append(found[0])
            rows.append(found[1])
        where = np.concatenate(rows)
        is_seen = where < stop  # an index may be newer than what this handle has pinned
        return np.concatenate(places)[is_seen], where[is_seen]

    @property
    def _indexed(self) -> int:
        return self.files[-1].stop if self.files else 0

    def _tail_ids(self) -> list[tuple[int, pa.ChunkedArray]]:
        """Return (first row, ids) of the commits that no index knows."""
        for number in range(max(self._tail_from, self._commits.holding(self._indexed)), self._commits.count):
            commit = self._commits.passing(number)
            self._tail.append((commit.first_row, commit.table["video_id"]))
            self._tail_from = number + 1
        return self._tail

    def _hash_tail(self) -> None:
        """Know the keys of the commits that no index knows, as a few sorted runs."""
        if self._runs is None:
            self._runs, self._runs_stop = [], self._indexed
        for number in range(self._commits.holding(self._runs_stop), self._commits.count):
            commit = self._commits.passing(number)
            ids = commit.table["video_id"].slice(max(0, self._runs_stop - commit.first_row))
            run = Run.of(video_keys(ids.to_pylist()), commit.stop - len(ids))
            while self._runs and len(self._runs[-1].keys) <= 2 * len(run.keys):
                run = Run.merged([self._runs.pop(), run])
            self._runs.append(run)
            self._runs_stop = commit.stop

    def lines(self, rows: np.ndarray, columns: list[str]) -> list[dict[str, str | None]]:
        """Return some columns of ascending rows, reading the commits that hold them and keeping none."""
        schema = HASHED if "sha256" in columns else BRIEF
        lines: list[dict[str, str | None]] = []
        at = 0
        while at < len(rows):
            commit = self._commits.passing(self._commits.holding(int(rows[at])), schema)
            stop = int(np.searchsorted(rows, commit.stop, "left"))
            local = column_of(rows[at:stop] - commit.first_row)
            lines += commit.table.select(columns).take(local).to_pylist()
            at = stop
        return lines
