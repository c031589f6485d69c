"""Withdrawal: videos leave every answer at once, and every byte of the store by the end.

The record of it is committed first (:mod:`pipeline.store.removals`), so answers end before a byte is touched; the bytes
go set by set, then the catalogue's, then what was made of them; the record says last that they are gone. Whoever is
killed goes on by the same call: each step looks for what is left, and finds nothing where it was done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConflictError, CorruptDataError, NotFoundError
from pipeline.events import Note, OnEvent, ignore
from pipeline.sets.compaction import forget_history
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_names import list_generations
from pipeline.sets.set_files import SetSpec, open_embedding_set, open_feature_set
from pipeline.sets.set_writer import SetWriter
from pipeline.storage import schema
from pipeline.storage.spare import REPLACED
from pipeline.store.catalogue import Catalogue
from pipeline.store.commit_index import drop_commit_index
from pipeline.store.erase_artifacts import Traces, erase_from_indexes, erase_from_reports
from pipeline.store.erase_tables import erase_from_commits, erase_from_side_files
from pipeline.store.facts import open_facts
from pipeline.store.id_index import drop_index
from pipeline.store.labels import open_labels
from pipeline.store.previews import erase_previews, preview_leftovers
from pipeline.store.removals import REMOVED_SCHEMA, open_removals, tombstone_id
from pipeline.store.side_files import SideFiles
from pipeline.store.video_rows import VideoRows

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend


@dataclass(frozen=True, slots=True)
class ErasedRows:
    """What an erasure did."""

    num_rows: int
    num_shards: int
    """Shards of sets that were written again."""
    indexes: tuple[str, ...]
    """Indexes that went; `scale index` makes them again."""
    reports: tuple[str, ...]
    """Reports that lost the rows, and their pages."""


def commit_removal(backend: StorageBackend, dataset: str, rows: np.ndarray, *, erase: bool) -> int:
    """Take rows out of every answer; return how many were in one. Rows that were removed before may be erased now."""
    now = datetime.now(UTC)
    num_new = 0

    def lines(seen: SideFiles) -> pa.Table:
        nonlocal num_new
        state = {line["row"]: line for line in seen.state.to_pylist()}
        new = [row for row in rows.tolist() if row not in state]
        again = [row for row in rows.tolist() if row in state and erase and not state[row]["erase"]]
        num_new = len(new)
        listed = [{"row": row, "removed_at": now, "erase": erase, "erased": False} for row in new]
        listed += [{**state[row], "erase": True} for row in again]
        return pa.Table.from_pylist(sorted(listed, key=lambda line: line["row"]), REMOVED_SCHEMA)

    open_removals(backend, dataset).commit(lines)
    return num_new


def unfinished(backend: StorageBackend, dataset: str) -> np.ndarray:
    """Return the rows whose bytes are to go and are not said to be gone, ascending."""
    state = open_removals(backend, dataset).state
    wanted = np.array(state["erase"].to_pylist(), bool) & ~np.array(state["erased"].to_pylist(), bool)
    return state["row"].to_numpy()[wanted].astype(np.int64)


def erase_rows(backend: StorageBackend, dataset: str, on_event: OnEvent = ignore) -> ErasedRows:
    """Take every row that is to be erased out of every byte; goes on where a killed process stopped.

    Raises
    ------
    ConflictError
        If something holds a row still: another writer joined. Run it again.
    CorruptDataError
        If a shard is damaged, so that its other rows cannot be kept: `scale verify --repair` first.
    """
    rows = unfinished(backend, dataset)
    if not len(rows):
        return ErasedRows(0, 0, (), ())
    traces = _traces(backend, dataset, rows)
    num_shards = 0
    for spec in each_set(backend, dataset):
        done = sum(1 for _ in _wipe(backend, dataset, spec, rows))
        num_shards += done
        on_event(Note("remove", f"{spec.label}: {done} shards written again"))
    erase_previews(backend, dataset, rows, VideoRows(backend, dataset, Catalogue(backend, dataset)))
    indexes = erase_from_indexes(backend, dataset)
    reports = erase_from_reports(backend, dataset, traces)
    _clear_replaced(backend, dataset)
    # The catalogue last: until here it says whose traces to look for.
    for files in (open_labels(backend, dataset), open_facts(backend, dataset)):
        erase_from_side_files(backend, dataset, files, rows)
    erase_from_commits(backend, dataset, rows)
    drop_commit_index(backend, dataset)
    drop_index(backend, dataset)  # hashes of ids; the next compaction makes it again
    if left := list(leftovers(backend, dataset, rows)):
        raise ConflictError(
            f"expected nothing of {len(rows)} removed videos in dataset {dataset}, found {left[0]}"
            + (f" ({len(left)} places)" if len(left) > 1 else "")
            + "; does a run write to it? Run the same command again when it has ended"
        )
    _commit_erased(backend, dataset, rows)
    return ErasedRows(len(rows), num_shards, tuple(indexes), tuple(reports))


def _traces(backend: StorageBackend, dataset: str, rows: np.ndarray) -> Traces:
    videos = Catalogue(backend, dataset).videos.take(pa.array(rows))
    texts = {text for name in ("video_id", "uri", "sha256") for text in videos[name].to_pylist() if text}
    facts = open_facts(backend, dataset)
    for number in range(facts.count):
        lines = facts.file(number)[0]
        lines = lines.filter(pc.is_in(lines["row"], value_set=pa.array(rows)))
        texts |= {text for name in ("uri", "sha256") for text in lines[name].to_pylist() if text}
    return Traces(frozenset(rows.tolist()), tuple(sorted(texts - {tombstone_id(row) for row in rows.tolist()})))


def each_set(backend: StorageBackend, dataset: str) -> Iterator[SetSpec]:
    """Yield every feature set and embedding set."""
    for crops in backend.folders(f"{dataset}/crops"):
        for name in backend.folders(f"{dataset}/crops/{crops}/features"):
            try:
                yield open_feature_set(backend, dataset, crops, name)[0]
            except NotFoundError:
                continue  # never finished being made
    for name in backend.folders(f"{dataset}/embeddings"):
        try:
            yield open_embedding_set(backend, dataset, name)[0]
        except NotFoundError:
            continue


def _wipe(backend: StorageBackend, dataset: str, spec: SetSpec, rows: np.ndarray) -> Iterator[int]:
    """Write every shard that holds one of the rows again; yield its number. Older generations go."""
    binding = VideoRows(backend, dataset, Catalogue(backend, dataset))
    ledger = Ledger(backend, spec.ledger, binding=binding)
    shards = np.unique(rows // spec.shard_rows).tolist()
    for shard in shards:
        entry = ledger.entry(shard)
        if entry is None:
            continue
        writer = SetWriter(
            backend, spec, num_rows=entry.row_stop, binding=binding, fingerprint_id=entry.fingerprint_id, differing={}
        )
        writer.differing = dict(entry.differing)
        if writer.wipe(shard) is not None:
            yield shard
        for key, _ in backend.list(f"{spec.ledger}/_previous"):
            if f"-{shard}-" in key.rpartition("/")[2]:
                backend.delete(key)
    forget_history(backend, spec.ledger, shards)


def _clear_replaced(backend: StorageBackend, dataset: str) -> None:
    """Delete what repairs have set aside: older bytes of anything, of which nobody says what they hold."""
    for key, _ in backend.list(f"{dataset}/{REPLACED}"):
        backend.delete(key)


def _commit_erased(backend: StorageBackend, dataset: str, rows: np.ndarray) -> None:
    def lines(seen: SideFiles) -> pa.Table:
        listed = [
            {**line, "erased": True}
            for line in seen.state.to_pylist()
            if line["row"] in set(rows.tolist()) and not line["erased"]
        ]
        return pa.Table.from_pylist(listed, REMOVED_SCHEMA)

    open_removals(backend, dataset).commit(lines)


def leftovers(backend: StorageBackend, dataset: str, rows: np.ndarray) -> Iterator[str]:
    """Yield in words every place that still holds something of these rows."""
    catalogue = Catalogue(backend, dataset)
    tombstones = [tombstone_id(row) for row in rows.tolist()]
    if catalogue.videos["video_id"].take(pa.array(rows)).to_pylist() != tombstones:
        yield f"{schema.catalogue_prefix(dataset)}: the videos' own lines"
    for files in (open_labels(backend, dataset), open_facts(backend, dataset)):
        if np.isin(files.state["row"].to_numpy(), rows).any():
            yield f"{schema.catalogue_prefix(dataset)}: {files.kind}"
    binding = VideoRows(backend, dataset, catalogue)
    for spec in each_set(backend, dataset):
        yield from _set_leftovers(backend, spec, binding, rows)
    yield from preview_leftovers(backend, dataset, rows)
    if backend.list(f"{dataset}/{REPLACED}"):
        yield f"{dataset}/{REPLACED}: what a repair set aside"


def _set_leftovers(backend: StorageBackend, spec: SetSpec, binding: VideoRows, rows: np.ndarray) -> Iterator[str]:
    from pipeline.sets.mapped import open_shard
    from pipeline.sets.set_files import stored_layout

    generations = list_generations(backend, spec.ledger)
    ledger = Ledger(backend, spec.ledger, binding=binding)
    for shard in np.unique(rows // spec.shard_rows).tolist():
        entry = ledger.entry(shard)
        if entry is None:
            continue
        writer = SetWriter(
            backend, spec, num_rows=entry.row_stop, binding=binding, fingerprint_id=entry.fingerprint_id, differing={}
        )
        if writer.holds_removed(entry) or len(generations[shard]) > 1:
            yield f"{spec.ledger}: shard {shard}"
        local = rows[rows // spec.shard_rows == shard] - shard * spec.shard_rows
        for array in spec.arrays:
            try:
                opened = open_shard(backend, array.key, stored_layout(backend, spec, array), shard, array.layout)
            except (NotFoundError, CorruptDataError):
                continue  # absent, or damaged: verify says so
            inside = local[local < opened.num_rows]
            held = np.empty((len(inside), *array.layout.row_shape), array.layout.dtype)
            opened.gather(inside, held)
            if np.nan_to_num(held).any():
                yield f"{array.key}: shard {shard}"
