"""The table of videos: append-only, one sealed Parquet file a commit, rows never renumbered.

A commit is the exclusive creation of the next numbered file, so two racing appends cannot both win and none is lost:
the loser reads what the winner added and tries again. Every file is written a second time under ``_copies``, because
the numbering of the rows is the one thing that running again could not restore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    ShapeMismatchError,
    VideoChangedError,
)
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import no_lines, texts_of, values_of
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import (
    CATALOGUE_SCHEMA,
    SCHEMA_VERSION,
    catalogue_copy_key,
    catalogue_key,
    catalogue_prefix,
)
from pipeline.storage.sealed import seal
from pipeline.store.commits import BRIEF, Commits, count_commits
from pipeline.store.known_ids import KnownIds

MAX_SCANS = 16
"""Lookups of one video that scan the ids (1 ms for 250,000); then a dict of all of them is made (80 ms) and kept."""
MAX_DICT_ROWS = 1 << 20
"""A larger catalogue is not held in memory for the sake of lookups; the index answers in milliseconds."""
_OFFERED = tuple(n for n in CATALOGUE_SCHEMA.names if n not in ("row", "added_at"))


@dataclass(frozen=True, slots=True)
class AppendedVideos:
    """What an append did."""

    num_new: int
    num_known: int
    """Ids that were there already, with the same bytes. What else was given for them (labels, splits) is not taken."""
    first_row: int
    """Row of the first new video; `num_rows` before the append."""
    num_rows: int
    """Rows after the append."""


class Catalogue:
    """The catalogue as it stood at one moment: a number of commits. Files are read when first needed.

    Parameters
    ----------
    num_commits : int or None
        How many commits to see; None: all that are there now.
    """

    def __init__(self, backend: StorageBackend, dataset: str, num_commits: int | None = None) -> None:
        self._backend = backend
        self._dataset = dataset
        self.num_commits = count_commits(backend, dataset) if num_commits is None else num_commits
        self.commits = Commits(backend, dataset, self.num_commits)
        self.ids = KnownIds(backend, dataset, self.commits)
        self._num_scans = 0
        self._kept = (0, no_lines(BRIEF))
        """First row and lines of the commit that a part was taken of: the next shard is likely to lie in it, too."""

    @cached_property
    def num_rows(self) -> int:
        """Rows in all commits."""
        return self.commits.stop

    @cached_property
    def videos(self) -> pa.Table:
        """The catalogue, ordered by row."""
        if not self.num_commits:
            return CATALOGUE_SCHEMA.empty_table()
        return pa.concat_tables([commit.table for commit in self.commits.chain()])

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {video_id: row for row, video_id in enumerate(self.videos["video_id"].to_pylist())}

    def part(self, start: int, stop: int) -> pa.Table:
        """Return (at least) the ids of rows ``[start, stop)``, without reading the others."""
        if "videos" in self.__dict__:
            return self.videos.slice(start, stop - start)
        first, kept = self._kept
        if not first <= start <= stop <= first + kept.num_rows:
            number = self.commits.holding(start)
            first, last = self.commits.span(number) if number < self.num_commits else (start, start)
            if stop > last:
                return self.commits.part(start, stop)
            self._kept = (first, kept) = (first, self.commits.part(first, last))
        return kept.slice(start - first, stop - start)

    def row_of(self, video_id: str) -> int:
        """Return the row of a video.

        Raises
        ------
        NotFoundError
            If no video has this id.
        """
        if "_row_of" not in self.__dict__ and (self._num_scans < MAX_SCANS or self.num_rows > MAX_DICT_ROWS):
            self._num_scans += 1
            return int(self.rows_of([video_id])[0])
        row = self._row_of.get(video_id)
        if row is None:
            raise self.unknown(video_id)
        return row

    def rows_of(self, video_ids: Sequence[str]) -> np.ndarray:
        """Return the rows of videos, in the order of their ids, without looking at the others more than once.

        Raises
        ------
        NotFoundError
            If no video has one of the ids.
        """
        place = {video_id: k for k, video_id in enumerate(dict.fromkeys(video_ids))}
        for video_id in place:
            if not _is_text(video_id):
                raise self.unknown(video_id)
        if "videos" in self.__dict__:
            found = pc.index_in(self.videos["video_id"], value_set=texts_of(list(place)))
            rows = np.full(len(place), -1, np.int64)
            rows[values_of(found.drop_null())] = values_of(pc.indices_nonzero(found.is_valid()))
        else:
            rows = self.ids.rows_of(list(place))
        if (rows < 0).any():
            raise self.unknown(next(video_id for video_id, k in place.items() if rows[k] < 0))
        return rows[[place[video_id] for video_id in video_ids]]

    def unknown(self, video_id: object) -> NotFoundError:
        """Return the error for an id that no video has."""
        return NotFoundError(
            f"expected a video id of dataset {self._dataset}, found {video_id!r}; ids are paths relative to the "
            "data folder, see `ds.videos['video_id']`"
        )

    def take_over(self, other: Catalogue) -> None:
        """Keep what another handle of the same dataset has read."""
        self.commits.take_over(other.commits)
        self.ids = KnownIds(self._backend, self._dataset, self.commits, before=other.ids)

    def digests(self) -> list[str]:
        """Return the sha256 of each commit's file."""
        return self.commits.digests()

    def append(self, table: pa.Table) -> tuple[Catalogue, AppendedVideos]:
        """Add the videos that are not there yet; see :meth:`Dataset.append_videos`."""
        offered = _conform(table)
        seen = self
        while True:
            new, num_known = seen._new_of(offered)
            first = seen.num_rows
            if not new.num_rows:
                return seen, AppendedVideos(0, num_known, first, first)
            data = seal(
                _numbered(new, first),
                seen._footer(first),
            )
            try:
                with exclusive(
                    self._backend, catalogue_prefix(self._dataset)
                ):  # for who asks whether the copy is missing
                    self._backend.create(catalogue_key(self._dataset, seen.num_commits), data)
                    self._backend.put(catalogue_copy_key(self._dataset, seen.num_commits), data)
            except AlreadyExistsError as err:
                number = seen.num_commits
                seen = Catalogue(self._backend, self._dataset)
                if seen.num_commits <= number:  # trying again would find the same for ever
                    raise ConflictError(
                        f"expected {catalogue_key(self._dataset, number)} to be free or a catalogue file, found "
                        "something else of that name (a folder?); remove it"
                    ) from err
                continue
            after = Catalogue(self._backend, self._dataset, seen.num_commits + 1)
            after.take_over(seen)
            return after, AppendedVideos(new.num_rows, num_known, first, first + new.num_rows)

    def _footer(self, first_row: int) -> dict[str, str]:
        """Return what the next commit says about itself."""
        previous = self.commits[self.num_commits - 1].digest if self.num_commits else ""
        return {"kind": "catalogue", "schema_version": str(SCHEMA_VERSION), "first_row": str(first_row),
                "dataset": self._dataset, "number": str(self.num_commits), "previous": previous}  # fmt: skip

    def _new_of(self, offered: pa.Table) -> tuple[pa.Table, int]:
        """Return the offered videos that are new, and how many are known."""
        ids, hashes = offered["video_id"].to_pylist(), offered["sha256"].to_pylist()
        different = list(dict.fromkeys(ids))
        is_known, sha256s = self.ids.known(different)
        known = {v: sha for v, sha, is_there in zip(different, sha256s, is_known.tolist(), strict=True) if is_there}
        keep, changed, num_known = [], [], 0
        for i, (video_id, sha256) in enumerate(zip(ids, hashes, strict=True)):
            if video_id not in known:
                keep.append(i)
                known[video_id] = sha256
            elif known[video_id] == sha256 or known[video_id] is None or sha256 is None:
                num_known += 1
            else:
                changed.append(video_id)
        if changed:
            raise VideoChangedError(
                f"dataset {self._dataset}: expected {changed[0]!r} to keep its bytes, found another sha256 "
                f"({len(changed)} such video(s)); give a changed video a new path, or start a new dataset"
            )
        return offered.take(pa.array(keep, pa.int64())), num_known


def _is_text(video_id: object) -> bool:
    """Return whether it is a text that a file can hold."""
    try:
        return isinstance(video_id, str) and video_id.encode() is not None
    except UnicodeError:
        return False


def _conform(table: pa.Table) -> pa.Table:
    """Return the table with exactly the offered columns; those that are absent become null."""
    if not isinstance(table, pa.Table):
        raise InvalidInputError(f"expected a pyarrow.Table of videos, found {type(table).__name__}")
    unknown = sorted(set(table.column_names) - set(CATALOGUE_SCHEMA.names))
    if unknown or "video_id" not in table.column_names:
        raise ShapeMismatchError(
            f"expected columns of {', '.join(_OFFERED)} with at least video_id, found {', '.join(table.column_names)}"
        )
    columns = {}
    for name in _OFFERED:
        field = CATALOGUE_SCHEMA.field(name)
        if name not in table.column_names:
            columns[name] = pa.nulls(table.num_rows, field.type)
            continue
        try:
            columns[name] = table[name].cast(field.type)
            columns[name].validate(full=True)  # or bytes that are no text would be found by whoever reads them
        except pa.ArrowException as err:
            raise ShapeMismatchError(
                f"expected column {name} as {field.type}, found {table[name].type}: {err}"
            ) from err
    if columns["video_id"].null_count or (table.num_rows and pc.any(pc.equal(columns["video_id"], "")).as_py()):
        raise InvalidInputError("expected a video_id for every video, found an empty one")
    return pa.table(columns)


def _numbered(new: pa.Table, first_row: int) -> pa.Table:
    rows = pa.array(np.arange(first_row, first_row + new.num_rows))
    added = pa.array([datetime.now(UTC)] * new.num_rows, CATALOGUE_SCHEMA.field("added_at").type)
    columns = {"row": rows, "added_at": added, **{n: new[n] for n in _OFFERED}}
    return pa.table([columns[n] for n in CATALOGUE_SCHEMA.names], schema=CATALOGUE_SCHEMA)
