"""The index of the catalogue's commits: which rows each holds and its bytes' sha256, without reading them.

Snapshots, row counts and the search for the commit that holds a row would else read every commit. An index names the
first commits of a catalogue, all up to some number. It is a cache: it may be deleted at any time, and is believed only
if the last commit that it names has the digest that it says, for each commit's own footer names the digest of the one
before it. `scale compact` makes it.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import values_of
from pipeline.storage.schema import NUMBER, SCHEMA_VERSION, catalogue_packs_key, commit_index_key
from pipeline.storage.sealed import seal, unseal

MIN_COMMITS = 16
"""A catalogue of fewer commits is read without an index, and fewer that none knows are not worth a new one."""
COMMIT_INDEX_SCHEMA = pa.schema(
    [pa.field("stop", pa.int64(), nullable=False), pa.field("sha256", pa.string(), nullable=False)]
)
"""One line a commit, in their order: the row after its last video, and the sha256 of its file."""
_FILE = re.compile(rf"(?:\A|/)commits-{NUMBER}\.parquet\Z")


class CommitIndex:
    """What the newest whole index says.

    Attributes
    ----------
    stops : ndarray of int64
        Of each commit that it names the row after its last video.
    sha256s : list of str
        Of each commit's file.
    """

    def __init__(self, stops: np.ndarray, sha256s: list[str]) -> None:
        self.stops = stops
        self.sha256s = sha256s

    def __len__(self) -> int:
        return len(self.sha256s)

    def of_first(self, count: int) -> CommitIndex:
        """Return what it says of the first `count` commits."""
        return CommitIndex(self.stops[:count], self.sha256s[:count])

    def span(self, number: int) -> tuple[int, int]:
        """Return the first row of a commit and the row after its last."""
        return int(self.stops[number - 1]) if number else 0, int(self.stops[number])

    def holding(self, row: int) -> int:
        """Return the number of the commit that holds a row; the number of commits where none of these does."""
        return int(np.searchsorted(self.stops, row, "right"))


def open_commit_index(backend: StorageBackend, dataset: str) -> CommitIndex:
    """Return the newest index that is whole; an empty one where there is none."""
    for number in reversed(commit_index_numbers(backend, dataset)):
        key = commit_index_key(dataset, number)
        try:
            table, metadata = unseal(backend.read(key), COMMIT_INDEX_SCHEMA, what=key)
        except (CorruptDataError, NotFoundError):
            continue  # a cache: without it the commits are read
        stops = values_of(table["stop"])
        if metadata.get("dataset") == dataset and (np.diff(stops, prepend=0) > 0).all():
            return CommitIndex(stops, table["sha256"].to_pylist())
    return CommitIndex(np.empty(0, np.int64), [])


def commit_index_numbers(backend: StorageBackend, dataset: str) -> list[int]:
    """Return the numbers of the index files that are there, ascending."""
    listed = backend.list(catalogue_packs_key(dataset), recursive=False)
    return sorted(int(match[1]) for key, _ in listed if (match := _FILE.search(key)))


def write_commit_index(backend: StorageBackend, dataset: str, index: CommitIndex) -> None:
    """Write an index that names more commits than the others, which go."""
    numbers = commit_index_numbers(backend, dataset)
    table = pa.table([pa.array(index.stops), pa.array(index.sha256s)], schema=COMMIT_INDEX_SCHEMA)
    about = {"kind": "commit_index", "schema_version": str(SCHEMA_VERSION), "dataset": dataset}
    try:
        backend.create(commit_index_key(dataset, numbers[-1] + 1 if numbers else 0), seal(table, about))
    except AlreadyExistsError:  # another compaction goes on
        return
    backend.delete_all([commit_index_key(dataset, number) for number in numbers])


def drop_commit_index(backend: StorageBackend, dataset: str) -> None:
    """Delete the index; the next compaction makes it again."""
    numbers = commit_index_numbers(backend, dataset)
    backend.delete_all([commit_index_key(dataset, number) for number in numbers])
