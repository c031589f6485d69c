"""The catalogue's commits as files: which there are, which bytes are the right ones, where a copy has to serve.

A commit's footer says which number it is, of which dataset, at which row it begins, and the sha256 of the commit
before it. So a file that is damaged, swapped, old or missing is noticed, and its copy under ``_copies`` serves
instead. Commits of schema 1 say only where they begin: they are held to the end of the one before.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError, NotFoundError, PipelineError, SchemaVersionError, UnsafeNameError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import column_of, no_lines, values_of
from pipeline.storage.schema import CATALOGUE_SCHEMA, NUMBER, catalogue_copy_key, catalogue_key, catalogue_prefix
from pipeline.storage.sealed import unseal
from pipeline.store.commit_index import MIN_COMMITS, CommitIndex, open_commit_index

_FILE = re.compile(rf"(?:\A|/)videos-{NUMBER}\.parquet\Z")

NUM_PASSED = 4
"""Commits that are kept when they are read in passing: shards follow one another, and many lie in one commit."""
BRIEF = pa.schema([CATALOGUE_SCHEMA.field(name) for name in ("row", "video_id")])
"""What says whose rows they are."""
HASHED = BRIEF.append(CATALOGUE_SCHEMA.field("sha256"))
"""And of which files."""


@dataclass(frozen=True)
class Commit:
    """One commit whose seal holds and which is what its name says."""

    data: bytes
    table: pa.Table
    metadata: Mapping[str, str]

    @cached_property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def first_row(self) -> int:
        """Row of its first video."""
        return int(self.metadata["first_row"])

    @property
    def stop(self) -> int:
        """Row after its last video."""
        return self.first_row + self.table.num_rows

    @property
    def names_itself(self) -> bool:
        """Whether it says which number it is; a commit of schema 1 does not."""
        return "number" in self.metadata

    def follows(self, before: Commit | None) -> bool:
        """Whether it is the commit after `before` (None: the first)."""
        if self.first_row != (0 if before is None else before.stop):
            return False
        previous = self.metadata.get("previous", "")
        return not previous or (before is not None and previous == before.digest)


def commit_numbers(backend: StorageBackend, dataset: str, *, copies: bool = False) -> tuple[int, ...]:
    """Return the numbers of the catalogue files (or of their spare copies) that are there, ascending."""
    folder = catalogue_prefix(dataset) + ("/_copies" if copies else "")
    listed = backend.list(folder, recursive=False)
    found = (_FILE.search(key) for key, _ in listed)
    return tuple(sorted(int(match[1]) for match in found if match))


def count_commits(backend: StorageBackend, dataset: str) -> int:
    """Return how many commits there are, those of which only the copy is left included.

    Raises
    ------
    CorruptDataError
        If there are gaps.
    """
    known = {*commit_numbers(backend, dataset), *commit_numbers(backend, dataset, copies=True)}
    count = max(known, default=-1) + 1
    if len(known) != count:
        missing = list(islice((n for n in range(count) if n not in known), 5))
        raise CorruptDataError(
            f"dataset {dataset}: expected catalogue files 0..{count - 1}, found no number "
            f"{', '.join(map(str, missing))}; restore it from a backup, or remove number {count - 1} if no "
            "writer made it"
        )
    return count


def read_candidates(backend: StorageBackend, dataset: str, number: int) -> tuple[list[Commit], list[str]]:
    """Return what may be this commit (the file, then its copy where that differs), and what is wrong with the others.

    Raises
    ------
    SchemaVersionError
        If a newer version of this project wrote it.
    StorageError
        If the storage does not answer.
    """
    good: list[Commit] = []
    reasons: list[str] = []
    for key in (catalogue_key(dataset, number), catalogue_copy_key(dataset, number)):
        try:
            data = backend.read(key)
            if not any(commit.data == data for commit in good):
                good.append(parse_commit(data, dataset, number, what=key))
        except SchemaVersionError:
            raise
        except NotFoundError:
            reasons.append(f"{key}: expected a catalogue file, found none")
        except (CorruptDataError, UnsafeNameError) as err:
            reasons.append(str(err))
    return good, reasons


def parse_commit(data: bytes, dataset: str, number: int, *, what: str, schema: pa.Schema = CATALOGUE_SCHEMA) -> Commit:
    """Return a commit that was read as number `number` of `dataset`.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode; `row` is one of them.

    Raises
    ------
    CorruptDataError
        If its seal does not hold, or it is another commit.
    """
    table, metadata = unseal(data, schema, what=what)
    try:
        first = int(metadata.get("first_row", "-1"))
    except ValueError:
        first = -1
    rows = values_of(table["row"])
    if first < 0 or not np.array_equal(rows, np.arange(first, first + len(rows))):
        raise CorruptDataError(f"{what}: expected rows from {first} on without gaps, found others")
    said = (metadata.get("dataset", dataset), metadata.get("number", str(number)))
    if said != (dataset, str(number)) or (first == 0) != (number == 0):
        raise CorruptDataError(
            f"{what}: expected commit {number} of dataset {dataset}, found commit {metadata.get('number', 'unknown')} "
            f"of {said[0]}, which begins at row {first}: a file of another name was put there"
        )
    return Commit(data, table, metadata)


class Commits:
    """The first `count` commits of a dataset, each read when it is first asked for."""

    def __init__(self, backend: StorageBackend, dataset: str, count: int) -> None:
        self._backend = backend
        self._dataset = dataset
        self.count = count
        self._read: dict[int, Commit] = {}
        self._spans: dict[int, tuple[int, int]] = {}
        self._passed: dict[tuple[int, int], Commit] = {}

    @cached_property
    def index(self) -> CommitIndex:
        """What the index says of these commits, held to the last of them that it names; empty where there is none."""
        nothing = CommitIndex(np.empty(0, np.int64), [])
        if self.count < MIN_COMMITS:
            return nothing
        found = open_commit_index(self._backend, self._dataset).of_first(self.count)
        if not len(found):
            return found
        last = self._read.get(len(found) - 1) or self._decoded(
            len(found) - 1, pa.schema([CATALOGUE_SCHEMA.field("row")])
        )
        return found if last is not None and last.digest == found.sha256s[-1] else nothing

    @property
    def stop(self) -> int:
        """The row after the last, reading one commit at most."""
        if not self.count:
            return 0
        return int(self.index.stops[-1]) if len(self.index) == self.count else self[self.count - 1].stop

    def digests(self) -> list[str]:
        """Return the sha256 of each commit's file, reading those that no index names."""
        return self.index.sha256s + [commit.digest for commit in self.stream(len(self.index), ["row"])]

    def __getitem__(self, number: int) -> Commit:
        """Return one commit.

        Raises
        ------
        CorruptDataError
            If neither the file nor its copy is the right one.
        """
        if number not in self._read:
            candidates, reasons = read_candidates(self._backend, self._dataset, number)
            if len(candidates) == 1 and candidates[0].names_itself:
                self._read[number] = candidates[0]
            else:
                self._read[number] = self._choose(number, candidates, reasons)
        return self._read[number]

    def chain(self) -> list[Commit]:
        """Return all commits, each held to the one before it."""
        return [self.chain_to(number) for number in range(self.count)]

    def chain_to(self, number: int) -> Commit:
        """Return one commit, held to the one before it, which is read for that."""
        commit = self[number]
        if not commit.follows(self[number - 1] if number else None):
            commit = self._choose(number, *read_candidates(self._backend, self._dataset, number))
            self._read[number] = commit
        return commit

    def passing(self, number: int, schema: pa.Schema = BRIEF) -> Commit:
        """Return one commit; of those that are read in passing the last few are kept in memory.

        Parameters
        ----------
        schema : pyarrow.Schema
            Columns that its table has at least: decoding fewer takes less time.
        """
        if number in self._read or number == self.count - 1:
            return self[number]
        what = (number, len(schema))
        if what in self._passed:
            return self._passed[what]
        commit = self._indexed(number, schema)
        if commit is None:
            commit = self[number]
            del self._read[number]
        self._passed[what] = commit
        while len(self._passed) > NUM_PASSED:
            del self._passed[next(iter(self._passed))]
        return commit

    def _indexed(self, number: int, schema: pa.Schema) -> Commit | None:
        """Return a commit with some columns if its file is the one that the index names; its copy is not needed."""
        commit = self._decoded(number, schema) if number < len(self.index) else None
        return commit if commit is not None and self._is_indexed(number, commit) else None

    def _is_indexed(self, number: int, commit: Commit) -> bool:
        """Whether the index names this very file: then it is in its place, and no neighbour is read to say so."""
        return number < len(self.index) and commit.digest == self.index.sha256s[number]

    def holding(self, row: int) -> int:
        """Return the number of the commit that holds a row, looking at as few as possible; `count` beyond the last.

        Raises
        ------
        CorruptDataError
            If none does: commits do not follow one another.
        """
        if row >= self.stop:
            return self.count
        low, high = len(self.index), self.count - 1
        start, stop = int(self.index.stops[-1]) if low else 0, self.stop
        if row < start:
            return self.index.holding(row)
        while low <= high:  # commits are often of one size: guess by proportion
            guess = min(high, max(low, low + (row - start) * (high - low + 1) // max(stop - start, 1)))
            first, last = self.span(guess)
            if first <= row < last:
                return guess
            if row < first:
                high, stop = guess - 1, first
            else:
                low, start = guess + 1, last
        return self._held_by_none(row)

    def span(self, number: int) -> tuple[int, int]:
        """Return the first row of a commit, and the row after its last."""
        if number < len(self.index):
            return self.index.span(number)
        if number not in self._spans:
            commit = self.passing(number)
            self._spans[number] = (commit.first_row, commit.stop)
        return self._spans[number]

    def _held_by_none(self, row: int) -> int:
        self.chain()  # says which commit is wrong
        raise CorruptDataError(f"dataset {self._dataset}: expected a catalogue commit that holds row {row}, found none")

    def part(self, start: int, stop: int) -> pa.Table:
        """Return BRIEF of rows ``[start, stop)``, from the commits that hold them, each held to the one after it."""
        pieces = []
        number, row = self.holding(start), start
        while row < stop and number < self.count:
            commit = self.passing(number)
            is_vouched = number + 1 == self.count or self._is_indexed(number, commit)
            if not is_vouched and not self.passing(number + 1).follows(commit):
                return pa.concat_tables([c.table.select(BRIEF.names) for c in self.chain()]).slice(start, stop - start)
            pieces.append(commit.table.select(BRIEF.names).slice(row - commit.first_row, stop - row))
            row, number = commit.stop, number + 1
        return pa.concat_tables(pieces) if pieces else no_lines(BRIEF)

    def lines(self, rows: np.ndarray) -> pa.Table:
        """Return the lines of ascending rows, reading the commits that hold them and keeping the last few."""
        pieces = [no_lines(CATALOGUE_SCHEMA)]
        at = 0
        while at < len(rows):
            number = self.holding(int(rows[at]))
            commit = self.passing(number, CATALOGUE_SCHEMA)
            if number < len(self.index):
                if not self._is_indexed(number, commit):  # nor its copy: the chain says what is wrong
                    commit = self.chain()[number]
            elif number and not commit.follows(self.passing(number - 1)):
                commit = self.chain_to(number)
            stop = int(np.searchsorted(rows, commit.stop))
            pieces.append(commit.table.take(column_of(rows[at:stop] - commit.first_row)))
            at = stop
        return pa.concat_tables(pieces)

    def stream(self, start: int = 0, columns: Sequence[str] = CATALOGUE_SCHEMA.names) -> Iterator[Commit]:
        """Yield the commits from a number on, each held to the one before it; none of them is kept.

        Parameters
        ----------
        columns : sequence of str
            Which of CATALOGUE_SCHEMA their tables have at least, `row` among them.
        """
        schema = pa.schema([field for field in CATALOGUE_SCHEMA if field.name in columns])
        before = self.passing(start - 1) if 0 < start < self.count else None
        for number in range(start, self.count):
            commit = self._read.get(number) or self._decoded(number, schema) or self[number]
            if not commit.follows(before):
                commit = self.chain_to(number)
            yield commit
            before = commit

    def _decoded(self, number: int, schema: pa.Schema) -> Commit | None:
        """Return a commit with some columns, if its file is there, whole and says which it is."""
        key = catalogue_key(self._dataset, number)
        try:
            commit = parse_commit(self._backend.read(key), self._dataset, number, what=key, schema=schema)
        except (CorruptDataError, NotFoundError, UnsafeNameError):
            return None
        return commit if commit.names_itself else None

    def forget(self, number: int) -> None:
        """Keep a commit no longer in memory."""
        self._read.pop(number, None)

    def take_over(self, other: Commits) -> None:
        """Keep what another handle of the same dataset has read; of its commits the last few, which appends need."""
        last = range(self.count - NUM_PASSED, self.count)
        self._read.update({n: commit for n, commit in other._read.items() if n in last})
        self._spans.update({n: span for n, span in other._spans.items() if n < self.count})

    def _choose(self, number: int, candidates: list[Commit], reasons: list[str]) -> Commit:
        """Return the candidate that fits between its neighbours."""
        before = self[number - 1] if number else None
        fitting = [commit for commit in candidates if commit.follows(before)]
        if len(fitting) > 1 and number + 1 < self.count:
            after, _ = read_candidates(self._backend, self._dataset, number + 1)
            named = {commit.metadata.get("previous") for commit in after}
            fitting = [commit for commit in fitting if commit.digest in named] or fitting
        if fitting:
            return fitting[0]
        key = catalogue_key(self._dataset, number)
        why = (
            "; ".join(reasons)
            or f"{key}: begins at another row, or follows another commit, than the one before it ends"
        )
        raise CorruptDataError(
            f"{key}: expected commit {number} of the catalogue, found damage and no spare copy that fits ({why}); "
            "restore it from a backup"
        )


def mend_commits(backend: StorageBackend, dataset: str) -> int:
    """Write the files and copies of commits that are not there, as after a writer's death; nothing is replaced.

    Returns
    -------
    int
        How many were written.
    """
    files, copies = set(commit_numbers(backend, dataset)), set(commit_numbers(backend, dataset, copies=True))
    if files == copies:
        return 0
    commits = Commits(backend, dataset, count_commits(backend, dataset))
    absent = [(n, catalogue_copy_key) for n in sorted(files - copies)]
    absent += [(n, catalogue_key) for n in sorted(copies - files)]
    for number, key_of in absent:
        commit = commits[number]
        try:
            backend.create(key_of(dataset, number), commit.data)
        except PipelineError:
            if not backend.exists(key_of(dataset, number)):
                raise
    return len(absent)
