"""The index of video ids: which row a video has, without reading the catalogue.

An index file holds the keys of the videos of some commits (the first 8 bytes of the sha256 of the id), sorted, with
their rows, in small row groups; its footer says where each group begins. It is a cache: it may be deleted at any time,
what it says is held to the catalogue's own line before anybody believes it, and commits that it does not know are
scanned. `scale compact` makes it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError, PipelineError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import values_of
from pipeline.storage.parquet import ParquetPieces
from pipeline.storage.range_file import RangeFile
from pipeline.storage.schema import NUMBER, SCHEMA_VERSION, catalogue_packs_key, id_index_key
from pipeline.storage.sealed import seal
from pipeline.storage.shardfile import crc32c

ROWS_PER_GROUP = 8192
MAX_INDEX_ROWS = 1 << 22
"""Rows of an index file that is not merged any further."""
INDEX_SCHEMA = pa.schema(
    [pa.field("video_key", pa.uint64(), nullable=False), pa.field("row", pa.int64(), nullable=False)]
)
_FILE = re.compile(rf"(?:\A|/)ids-{NUMBER}\.parquet\Z")


@dataclass(frozen=True)
class Run:
    """Keys in ascending order, and the row of each."""

    keys: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, first_row: int) -> Run:
        """Return the run of neighbouring rows."""
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], first_row + order)

    @classmethod
    def merged(cls, runs: list[Run]) -> Run:
        """Return several runs as one."""
        keys = np.concatenate([run.keys for run in runs])
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], np.concatenate([run.rows for run in runs])[order])

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (place in `wanted`, row) of every match; keys of different ids may be equal."""
        first = np.searchsorted(self.keys, wanted, "left")
        counts = np.searchsorted(self.keys, wanted, "right") - first
        places = np.repeat(np.arange(len(wanted)), counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return places, self.rows[np.repeat(first, counts) + offsets]


class IndexFile:
    """One file of the index.

    Attributes
    ----------
    start, stop : int
        Rows ``[start, stop)`` that it knows, all of them.

    Raises
    ------
    CorruptDataError, NotFoundError
        If it is none, or damaged; then do without it.
    """

    def __init__(self, backend: StorageBackend, dataset: str, number: int) -> None:
        self.key = id_index_key(dataset, number)
        self.number = number
        try:
            self._file = ParquetPieces(RangeFile(backend, self.key))
            about = self._file.metadata["index"]
            if self._file.metadata["index_crc32c"] != str(crc32c(f"{dataset}:{about}".encode())):
                raise ValueError("its footer fails its checksum, or is another dataset's")
            found = json.loads(about)
            self.start, self.stop = int(found["start"]), int(found["stop"])
            self._firsts = np.array(found["firsts"], np.uint64)
            if self._file.num_rows != self.stop - self.start or len(self._firsts) != len(self._file.group_rows):
                raise ValueError("its rows are not those it says")
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, OverflowError) as err:
            if isinstance(err, PipelineError):
                raise
            raise CorruptDataError(f"{self.key}: expected an index of video ids, found: {err}") from err

    def find(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (place in `wanted`, row) of every match, reading the row groups that may hold one."""
        places: list[np.ndarray] = [np.empty(0, np.int64)]
        rows: list[np.ndarray] = [np.empty(0, np.int64)]
        first = np.maximum(np.searchsorted(self._firsts, wanted, "left") - 1, 0)
        last = np.searchsorted(self._firsts, wanted, "right")
        groups = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)]).astype(int))
        for group in groups.tolist():
            found, where = self._run(group).find(wanted)
            places.append(found)
            rows.append(where)
        return np.concatenate(places), np.concatenate(rows)

    @cached_property
    def whole(self) -> Run:
        """All of it, in memory."""
        return Run.merged([self._run(group) for group in range(len(self._firsts))])

    def _run(self, group: int) -> Run:
        try:
            table = self._file.group(group)
            return Run(values_of(table["video_key"]), values_of(table["row"]))
        except (pa.ArrowException, OSError, KeyError) as err:
            raise CorruptDataError(f"{self.key}: expected a row group, found: {err}") from err


def open_index(backend: StorageBackend, dataset: str) -> list[IndexFile]:
    """Return the index files to ask, by their rows: none overlap, and the first begins at row 0."""
    files = []
    for number in index_numbers(backend, dataset):
        try:
            files.append(IndexFile(backend, dataset, number))
        except (CorruptDataError, NotFoundError):
            continue  # a cache: without it the catalogue is scanned
    chosen: list[IndexFile] = []
    stop = 0
    while following := [file for file in files if file.start == stop and file.stop > stop]:
        chosen.append(max(following, key=lambda file: file.stop))
        stop = chosen[-1].stop
    return chosen


def index_numbers(backend: StorageBackend, dataset: str) -> list[int]:
    """Return the numbers of the index files that are there, ascending."""
    listed = backend.list(catalogue_packs_key(dataset), recursive=False)
    return sorted(int(match[1]) for key, _ in listed if (match := _FILE.search(key)))


def write_index(
    backend: StorageBackend, dataset: str, run: Run, start: int, *, rows_per_group: int = ROWS_PER_GROUP
) -> bool:
    """Write the next index file, of rows from `start` on; return whether this call did."""
    numbers = index_numbers(backend, dataset)
    number = numbers[-1] + 1 if numbers else 0
    table = pa.table([pa.array(run.keys), pa.array(run.rows)], schema=INDEX_SCHEMA)
    groups = [table.slice(at, rows_per_group) for at in range(0, max(len(table), 1), rows_per_group)]
    firsts = [int(key) for key in run.keys[::rows_per_group]]
    about = json.dumps({"start": start, "stop": start + len(run.keys), "firsts": firsts})
    metadata = {
        "kind": "id_index",
        "schema_version": str(SCHEMA_VERSION),
        "index": about,
        "index_crc32c": str(crc32c(f"{dataset}:{about}".encode())),
    }
    try:
        backend.create(id_index_key(dataset, number), seal(groups, metadata))
    except AlreadyExistsError:  # another compaction goes on
        return False
    return True


def drop_index(backend: StorageBackend, dataset: str, *, but: Iterable[int] = ()) -> int:
    """Delete the index, by default all of it: a cache, which the next compaction makes again. Returns how many went."""
    numbers = sorted(set(index_numbers(backend, dataset)) - set(but))
    backend.delete_all([id_index_key(dataset, number) for number in numbers])
    return len(numbers)
