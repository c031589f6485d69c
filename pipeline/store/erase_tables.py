"""Withdrawal from the catalogue's own files: commits and side files are written again without what a row said.

The commits name each other's digests, so all after the first that changes are new. They are replaced from the last to
the first, files before copies: at every instant either the old chain is whole (in the copies) or the new one is, and a
process that is killed leaves a catalogue that reads, and goes on when it is run again.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.storage.backend import StorageBackend
from pipeline.storage.schema import CATALOGUE_SCHEMA, catalogue_copy_key, catalogue_key
from pipeline.storage.sealed import SEAL_KEY, seal
from pipeline.store.commits import Commit, Commits, count_commits, parse_commit, read_candidates
from pipeline.store.removals import tombstone_id
from pipeline.store.side_files import SideFiles, overlaid, side_key

_TOMBSTONE = pa.schema([field for field in CATALOGUE_SCHEMA if field.name != "added_at"])


def tombstones(rows: np.ndarray) -> pa.Table:
    """Return the catalogue's lines for removed rows: their numbers, and nothing that was theirs."""
    columns = [
        pa.array(rows) if field.name == "row"
        else pa.array([tombstone_id(row) for row in rows.tolist()], pa.string()) if field.name == "video_id"
        else pa.nulls(len(rows), field.type)
        for field in _TOMBSTONE
    ]  # fmt: skip
    return pa.table(columns, schema=_TOMBSTONE)


def with_tombstones(lines: pa.Table, rows: np.ndarray) -> pa.Table:
    """Return lines of the catalogue, of whichever rows, with tombstones in the places of these (ascending)."""
    if not lines.num_rows or not len(rows):
        return lines
    among = pc.min_max(lines["row"])
    inside = rows[np.searchsorted(rows, among["min"].as_py()) : np.searchsorted(rows, among["max"].as_py(), "right")]
    return overlaid(lines, tombstones(inside), _TOMBSTONE.names) if len(inside) else lines


def erase_from_commits(backend: StorageBackend, dataset: str, rows: np.ndarray) -> int:
    """Write tombstones into the commits (and their copies) in the place of these rows; return how many files changed.

    Run again it finds nothing to do, or does what is left.
    """
    while True:
        count = count_commits(backend, dataset)
        old = [_commit(backend, dataset, number) for number in range(count)]
        new = _rechained(dataset, old, rows)
        changed = 0
        for key_of in (catalogue_key, catalogue_copy_key):
            for number in reversed(range(count)):
                key = key_of(dataset, number)
                if not _is(backend, key, new[number]):
                    backend.put(key, new[number])
                    changed += 1
        if count_commits(backend, dataset) == count:  # or an append joined meanwhile, to a commit that is replaced now
            return changed


def _commit(backend: StorageBackend, dataset: str, number: int) -> Commit:
    candidates, _ = read_candidates(backend, dataset, number)
    return candidates[0] if candidates else Commits(backend, dataset, number + 1)[number]  # raises: which is damaged


def _rechained(dataset: str, old: list[Commit], rows: np.ndarray) -> list[bytes]:
    """Return the files of the chain with tombstones, in their order; equal bytes where nothing changes."""
    files: list[bytes] = []
    is_new = False
    for number, commit in enumerate(old):
        table = with_tombstones(commit.table, rows)
        metadata = {name: text for name, text in commit.metadata.items() if name != SEAL_KEY}
        if files and metadata.get("previous"):
            metadata["previous"] = hashlib.sha256(files[-1]).hexdigest()
        is_new |= not table.equals(commit.table) or metadata.get("previous") != commit.metadata.get("previous")
        data = seal(table, metadata) if is_new else commit.data
        parse_commit(data, dataset, number, what=catalogue_key(dataset, number))
        files.append(data)
    return files


def _is(backend: StorageBackend, key: str, data: bytes) -> bool:
    return backend.exists(key) and backend.read(key) == data


def erase_from_side_files(backend: StorageBackend, dataset: str, files: SideFiles, rows: np.ndarray) -> int:
    """Write the files of a kind (and their copies) again without the lines of these rows."""
    changed = 0
    for number in range(files.count):
        table, _ = files.file(number)
        kept = table.filter(pc.invert(pc.is_in(table["row"], value_set=pa.array(rows))))
        if kept.num_rows == table.num_rows:
            data = files.data(number)
        else:
            data = files.encoded(kept, number)
        for copy in (False, True):
            key = side_key(dataset, files.kind, number, copy=copy)
            if not _is(backend, key, data):
                backend.put(key, data)
                changed += 1
    return changed
