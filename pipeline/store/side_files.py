"""Files beside the catalogue's commits that give some rows a new state: labels, facts, removals.

Every kind is a sequence ``catalog/<kind>-<n>.parquet``, each sealed, created exclusively (of two racing writers one
wins, the other looks again), copied under ``_copies``. A line names its row and the key of its video; of a row the
highest number that names it counts, with all of its columns. Nothing is ever changed in place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import AlreadyExistsError, ConflictError, CorruptDataError, NotFoundError, SchemaVersionError
from pipeline.sets.binding import video_keys
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import no_lines, values_of
from pipeline.storage.fetch import fetch_each
from pipeline.storage.schema import NUMBER, SCHEMA_VERSION, catalogue_prefix
from pipeline.storage.sealed import seal, unseal

KEY_FIELDS = (pa.field("row", pa.int64(), nullable=False), pa.field("video_key", pa.uint64(), nullable=False))
"""What the table of every kind begins with."""


def side_key(dataset: str, kind: str, number: int, *, copy: bool = False) -> str:
    """Return the key of one file, or of its copy."""
    return f"{catalogue_prefix(dataset)}/{'_copies/' if copy else ''}{kind}-{number}.parquet"


def side_numbers(backend: StorageBackend, dataset: str, kinds: Sequence[str]) -> dict[str, set[int]]:
    """Return the numbers of the files of each kind, or of their copies, that are there, gaps or not."""
    pattern = re.compile(rf"(?:\A|/)({'|'.join(map(re.escape, kinds))})-{NUMBER}\.parquet\Z")
    numbers: dict[str, set[int]] = {kind: set() for kind in kinds}
    for folder in (catalogue_prefix(dataset), f"{catalogue_prefix(dataset)}/_copies"):
        for key, _ in backend.list(folder, recursive=False):
            if match := pattern.search(key):
                numbers[match[1]].add(int(match[2]))
    return numbers


def side_counts(backend: StorageBackend, dataset: str, kinds: Sequence[str]) -> dict[str, int]:
    """Return how many files of each kind there are, those of which only the copy is left included.

    Raises
    ------
    CorruptDataError
        If there are gaps.
    """
    numbers = side_numbers(backend, dataset, kinds)
    for kind, known in numbers.items():
        missing = next((n for n in range(max(known, default=-1) + 1) if n not in known), None)
        if missing is not None:
            raise CorruptDataError(
                f"dataset {dataset}: expected {kind} files 0..{max(known)}, found no number {missing}; "
                "restore it from a backup"
            )
    return {kind: len(known) for kind, known in numbers.items()}


class SideFiles:
    """The files of one kind as they stood at one moment; each is read when it is first needed.

    Parameters
    ----------
    backend : StorageBackend
    dataset, kind : str
    schema : pyarrow.Schema
        Begins with KEY_FIELDS.
    count : int or None
        How many files to see; None: all that are there now.
    """

    def __init__(
        self, backend: StorageBackend, dataset: str, kind: str, schema: pa.Schema, count: int | None = None
    ) -> None:
        self._backend, self._dataset, self.kind, self._schema = backend, dataset, kind, schema
        self.count = side_counts(backend, dataset, [kind])[kind] if count is None else count
        self._read: dict[int, tuple[pa.Table, str]] = {}

    def file(self, number: int) -> tuple[pa.Table, str]:
        """Return one file's table and sha256, from its copy where the file itself is damaged or gone."""
        if number not in self._read:
            reasons = []
            for copy in (False, True):
                key = side_key(self._dataset, self.kind, number, copy=copy)
                try:
                    data = self._backend.read(key)
                    self._read[number] = self._parsed(data, number, key), hashlib.sha256(data).hexdigest()
                    break
                except SchemaVersionError:
                    raise
                except (CorruptDataError, NotFoundError) as err:
                    reasons.append(str(err))
            else:
                raise CorruptDataError(f"{'; '.join(reasons)}; restore one of them from a backup")
        return self._read[number]

    def fetch(self) -> None:
        """Read all files, many at once where that is faster."""
        missing = [number for number in range(self.count) if number not in self._read]
        for _ in fetch_each(self._backend, missing, self.file):
            pass

    def _parsed(self, data: bytes, number: int, what: str) -> pa.Table:
        table, metadata = unseal(data, self._schema, what=what)
        said = tuple(metadata.get(name) for name in ("kind", "dataset", "number"))
        if said != (self.kind, self._dataset, str(number)):
            raise CorruptDataError(
                f"{what}: expected {self.kind} file {number} of dataset {self._dataset}, found {said}: a file of "
                "another name was put there"
            )
        return table

    def data(self, number: int) -> bytes:
        """Return the bytes of one file, from its copy where the file itself is damaged or gone."""
        digest = self.file(number)[1]
        for copy in (False, True):
            try:
                data = self._backend.read(side_key(self._dataset, self.kind, number, copy=copy))
            except NotFoundError:
                continue
            if hashlib.sha256(data).hexdigest() == digest:
                return data
        raise CorruptDataError(f"expected {self.kind} file {number} of dataset {self._dataset}, found that it changed")

    def encoded(self, table: pa.Table, number: int) -> bytes:
        """Return the bytes of a file with these lines."""
        return seal(
            table.select(self._schema.names).cast(self._schema),
            {"kind": self.kind, "schema_version": str(SCHEMA_VERSION), "dataset": self._dataset,
             "number": str(number)},
        )  # fmt: skip

    def digests(self) -> list[str]:
        """Return the sha256 of each file."""
        self.fetch()
        return [self.file(number)[1] for number in range(self.count)]

    @cached_property
    def state(self) -> pa.Table:
        """What counts of every row that is named, ascending by row."""
        if not self.count:
            return no_lines(self._schema)
        self.fetch()
        whole = pa.concat_tables([self.file(number)[0] for number in range(self.count)])
        rows = values_of(whole["row"])
        _, last = np.unique(rows[::-1], return_index=True)
        return whole.take(pa.array(len(rows) - 1 - last))

    def commit(self, make: Callable[[SideFiles], pa.Table | None]) -> SideFiles:
        """Write the next file; the file after another writer's where one was faster.

        Parameters
        ----------
        make : callable
            Given the files as they stand, returns the lines to write, or None where nothing is left to say.

        Returns
        -------
        SideFiles
            The files with this one.
        """
        seen = SideFiles(self._backend, self._dataset, self.kind, self._schema)
        while True:
            table = make(seen)
            if table is None or not table.num_rows:
                return seen
            data = seen.encoded(table, seen.count)
            number = seen.count
            try:
                self._backend.create(side_key(self._dataset, self.kind, number), data)
            except AlreadyExistsError as err:
                seen = SideFiles(self._backend, self._dataset, self.kind, self._schema)
                if seen.count <= number:
                    raise ConflictError(
                        f"expected {side_key(self._dataset, self.kind, number)} to be free, found something else of "
                        "that name (a folder?); remove it"
                    ) from err
                continue
            self._backend.put(side_key(self._dataset, self.kind, number, copy=True), data)
            return SideFiles(self._backend, self._dataset, self.kind, self._schema)


def check_keys(state: pa.Table, lines: pa.Table, *, what: str) -> None:
    """Hold every line of a state to the video that the catalogue has in its row.

    Parameters
    ----------
    state : pyarrow.Table
        Lines with `row` and `video_key`.
    lines : pyarrow.Table
        Lines of the catalogue with `row` and `video_id`.

    Raises
    ------
    CorruptDataError
        If a line of the state is another video's, or in a row that these lines lack.
    """
    rows = state["row"].to_numpy()
    places = pc.index_in(state["row"], value_set=lines["row"].combine_chunks())
    if places.null_count:
        beyond = int(rows[places.is_null().to_numpy()][0])
        raise CorruptDataError(f"{what}: expected rows of the catalogue, found {beyond}")
    keys = video_keys(lines["video_id"].take(places).to_pylist())
    other = rows[state["video_key"].to_numpy() != keys]
    if len(other):
        raise CorruptDataError(
            f"{what}: expected lines about the videos that the catalogue has in their rows, found another video's in "
            f"row {int(other[0])} ({len(other)} such rows); a file of another store was put there"
        )


def overlaid(lines: pa.Table, state: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return lines of the catalogue, of whichever rows, with those of these columns that they have as the state says.

    Parameters
    ----------
    lines, state : pyarrow.Table
        Both name their rows in `row`; of the state each counts once.
    """
    n = lines.num_rows
    place = pc.index_in(lines["row"].combine_chunks(), value_set=state["row"].combine_chunks())
    if place.null_count == n:
        return lines
    both = pa.array(np.where(place.is_valid().to_numpy(zero_copy_only=False),
                             n + place.fill_null(0).to_numpy(), np.arange(n)))  # fmt: skip
    for name in columns:
        at = lines.schema.get_field_index(name)
        if at < 0:
            continue
        field = lines.schema.field(name)
        pooled = pa.chunked_array([*lines[name].chunks, *state[name].cast(field.type).chunks], field.type)
        lines = lines.set_column(at, field, pooled.take(both))
    return lines
