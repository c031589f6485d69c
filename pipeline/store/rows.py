"""The videos of a dataset as they stand: the catalogue's commits, with what its side files say of some rows since.

Labels replace labels, facts replace facts. A removed row stays as a tombstone where rows are counted by their place,
and is in no answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.columns import values_of
from pipeline.storage.schema import CATALOGUE_SCHEMA
from pipeline.store.erase_tables import with_tombstones
from pipeline.store.facts import FACT_COLUMNS, FACTS, FactStates, open_facts
from pipeline.store.labels import LABEL_COLUMNS, LABELS, open_labels
from pipeline.store.removals import REMOVED, open_removals
from pipeline.store.side_files import SideFiles, check_keys, overlaid, side_counts

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend
    from pipeline.store.catalogue import Catalogue


MAX_KEPT_ROWS = 1 << 18
"""A catalogue of no more rows is read whole once and kept: some 100 MiB."""


@dataclass(frozen=True, slots=True)
class SideCounts:
    """How many files of each kind a handle has pinned."""

    labels: int
    removed: int
    facts: int = 0


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
            counts = SideCounts(**side_counts(backend, dataset, (LABELS, REMOVED, FACTS)))
        self.labels = open_labels(backend, dataset, counts.labels)
        self.removals = open_removals(backend, dataset, counts.removed)
        self.facts = open_facts(backend, dataset, counts.facts)
        self._whole: tuple[Catalogue, pa.Table] | None = None

    @property
    def counts(self) -> SideCounts:
        """How many files of each kind this is."""
        return SideCounts(self.labels.count, self.removals.count, self.facts.count)

    @cached_property
    def states(self) -> FactStates:
        """Which rows have another state than they were catalogued in."""
        return FactStates(self.facts)

    @cached_property
    def removed_rows(self) -> np.ndarray:
        """Rows that are in no answer any more, ascending, int64."""
        return values_of(self.removals.state["row"]).astype(np.int64)

    def digests(self, *, with_labels: bool = True) -> list[str]:
        """Return a line for every file, for snapshots; none where there is no file."""
        kinds = (self.labels, self.facts, self.removals) if with_labels else (self.facts, self.removals)
        return [f"\n{files.kind}:{digest}" for files in kinds for digest in files.digests()]

    def by_row(self, catalogue: Catalogue) -> pa.Table:
        """Return one line for every row, in its place: what counts now, a tombstone where a video was removed.

        Raises
        ------
        CorruptDataError
            If a side file speaks of other videos than the catalogue has in these rows.
        """
        if self._whole is None or self._whole[0] is not catalogue:
            self._whole = (catalogue, self.laid_over(catalogue.videos))
        return self._whole[1]

    def lines_of(self, catalogue: Catalogue, rows: np.ndarray, max_kept: int = MAX_KEPT_ROWS) -> pa.Table:
        """Return the lines of some rows, in the order given; :meth:`by_row` without reading the others.

        A catalogue of at most `max_kept` rows is read whole once and kept.
        """
        if catalogue.num_rows <= max_kept or (self._whole is not None and self._whole[0] is catalogue):
            return self.by_row(catalogue).take(pa.array(rows))
        wanted, places = np.unique(rows, return_inverse=True)
        return self.laid_over(catalogue.commits.lines(wanted)).take(pa.array(places))

    def parts(
        self, catalogue: Catalogue, columns: Sequence[str] | None = None, max_kept: int = MAX_KEPT_ROWS
    ) -> Iterator[pa.Table]:
        """Yield the lines that are in answers, by row, a commit at a time; nothing of them is kept.

        A catalogue of at most `max_kept` rows comes in one part, which is.

        Parameters
        ----------
        columns : sequence of str, optional
            Which are wanted; None: all of CATALOGUE_SCHEMA.
        """
        names = list(CATALOGUE_SCHEMA.names if columns is None else columns)
        if catalogue.num_rows <= max_kept or (self._whole is not None and self._whole[0] is catalogue):
            whole = self.by_row(catalogue).select(names)
            yield whole.take(pa.array(self.present(catalogue))) if len(self.removed_rows) else whole
            return
        for commit in catalogue.commits.stream(columns=["row", "video_id", *names]):
            lines = self.laid_over(commit.table)
            if len(self.removed_rows):
                removed = pc.is_in(lines["row"], value_set=pa.array(self.removed_rows))
                lines = lines.filter(pc.invert(removed))
            yield lines.select(names)

    def ids(self, catalogue: Catalogue, max_kept: int = MAX_KEPT_ROWS) -> Iterator[pa.Table]:
        """Yield `row` and `video_id` of every row in its place, tombstones too, a commit at a time."""
        if catalogue.num_rows <= max_kept or (self._whole is not None and self._whole[0] is catalogue):
            yield self.by_row(catalogue).select(["row", "video_id"])
            return
        for commit in catalogue.commits.stream(columns=["row", "video_id"]):
            yield with_tombstones(commit.table.select(["row", "video_id"]), self.removed_rows)

    def laid_over(self, lines: pa.Table) -> pa.Table:
        """Return lines of the catalogue, of whichever rows, as they count now.

        Parameters
        ----------
        lines : pyarrow.Table
            With at least `row` and `video_id`.
        """
        if not lines.num_rows:
            return lines
        for files, columns in ((self.facts, FACT_COLUMNS), (self.labels, LABEL_COLUMNS)):
            lines = self._with_state(lines, files, columns)
        return with_tombstones(lines, self.removed_rows)

    def _with_state(self, lines: pa.Table, files: SideFiles, columns: Sequence[str]) -> pa.Table:
        """Return the lines as the files of one kind have them, held to the videos that are in these rows."""
        state = files.state
        if not state.num_rows:
            return lines
        among = pc.min_max(lines["row"])
        rows = state["row"].to_numpy()
        first = np.searchsorted(rows, among["min"].as_py())
        near = state.slice(first, np.searchsorted(rows, among["max"].as_py(), "right") - first)
        named = near.filter(pc.is_in(near["row"], value_set=lines["row"].combine_chunks()))
        named = named.filter(pc.invert(pc.is_in(named["row"], value_set=pa.array(self.removed_rows))))
        check_keys(named, lines, what=f"{files.kind} of dataset {self._dataset}")
        return overlaid(lines, named, columns)

    def present(self, catalogue: Catalogue) -> np.ndarray:
        """Return the rows that are in answers, ascending."""
        return np.setdiff1d(np.arange(catalogue.num_rows), self.removed_rows, assume_unique=True)
