"""How far a set is, row by row, and the id of what a handle sees."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import UNDONE
from pipeline.sets.set_files import EmbeddingSetInfo, FeatureSetInfo, SetSpec
from pipeline.status import VideoStatus
from pipeline.storage.layout import num_shards, shard_range
from pipeline.storage.schema import PENDING, STATUS_SCHEMA
from pipeline.store.catalogue import Catalogue

SetKey = tuple[str | None, str]
"""(crop set, feature set) or (None, embedding set)."""


def status_counts(ledger: Ledger, num_rows: int, removed: np.ndarray) -> Counter[str]:
    """Return how many rows have each status, `pending` included, without reading the entries that packs hold.

    Parameters
    ----------
    removed : ndarray of int64
        Rows whose videos were removed, ascending: they count as `removed`, whatever a ledger says of them.
    """
    counts: Counter[str] = Counter()
    num_covered = num_removed = 0
    for summary in ledger.summaries():
        start, stop = summary.row_start, min(summary.row_stop, num_rows)
        gone = removed[slice(*np.searchsorted(removed, (start, stop)))] if len(removed) else removed
        if len(gone) or stop < summary.row_stop:
            entry = ledger.entry(summary.shard)
            assert entry is not None
            statuses = np.array(entry.statuses[: max(0, stop - start)], object)
            counts.update(Counter(np.delete(statuses, gone - start).tolist()))
        else:
            counts.update(summary.counts)
        num_covered += max(0, stop - start)
        num_removed += len(gone)
    others = int(np.searchsorted(removed, num_rows)) - num_removed
    counts[PENDING] += num_rows - num_covered - others
    counts[VideoStatus.REMOVED.value] += num_removed + others
    return Counter({status: count for status, count in counts.items() if count})


def undone_shards(
    ledger: Ledger, num_rows: int, shard_rows: int, removed: np.ndarray, again: Iterable[str] = ()
) -> list[int]:
    """Return the shards with a row to be done; removed videos do not count.

    Parameters
    ----------
    again : iterable of str
        Statuses that are to be tried again, besides those that every run does again and rows that no entry covers.
    """
    wanted = UNDONE.union(again)
    finished = {}
    for summary in ledger.summaries():
        whole = summary.row_stop >= min((summary.shard + 1) * shard_rows, num_rows)
        finished[summary.shard] = whole and wanted.isdisjoint(summary.counts)
    undone = [shard for shard in range(num_shards(num_rows, shard_rows)) if not finished.get(shard)]
    touched = set((removed // shard_rows).tolist())
    return [
        shard
        for shard in undone
        if shard not in touched
        or not wanted.isdisjoint(shard_statuses(ledger, shard, shard_range(shard, shard_rows, num_rows), removed))
    ]


def shard_statuses(ledger: Ledger, shard: int, rows: tuple[int, int], removed: np.ndarray) -> np.ndarray:
    """Return the status of every row of a shard, object, from its ledger entry alone.

    Parameters
    ----------
    rows : tuple of int
        First row of the shard, and the row after its last.
    removed : ndarray of int64
        Rows whose videos were removed, ascending.
    """
    start, stop = rows
    statuses = np.full(stop - start, PENDING, object)
    entry = ledger.passing(shard)
    if entry is not None:
        covered = slice(max(entry.row_start, start), min(entry.row_stop, stop))
        found = entry.statuses[covered.start - entry.row_start : covered.stop - entry.row_start]
        statuses[covered.start - start : covered.start - start + len(found)] = found
    gone = removed[slice(*np.searchsorted(removed, rows))] if len(removed) else removed
    statuses[gone - start] = VideoStatus.REMOVED.value
    return statuses


def failed_table(ledger: Ledger, lines_of: Callable[[np.ndarray], pa.Table], removed: np.ndarray) -> pa.Table:
    """Return STATUS_SCHEMA of the videos that are neither ok nor pending, reading the entries that have such alone.

    Parameters
    ----------
    lines_of : callable
        Returns the catalogue's lines of some rows.
    """
    pieces = [STATUS_SCHEMA.empty_table()]
    for summary in ledger.summaries():
        if summary.counts.keys() <= {VideoStatus.OK.value, PENDING}:
            continue
        entry = ledger.entry(summary.shard)
        assert entry is not None
        there = pc.invert(pc.is_in(entry.table["row"], value_set=pa.array(removed)))
        failed = pc.invert(pc.is_in(entry.table["status"], value_set=pa.array([VideoStatus.OK.value, PENDING])))
        found = entry.table.filter(pc.and_(there, failed))
        n = found.num_rows
        columns = {name: found[name] for name in ("row", "status", "error", "attempts", "seconds")}
        columns["video_id"] = lines_of(found["row"].to_numpy())["video_id"]
        columns |= {"shard": pa.array([entry.shard] * n), "generation": pa.array([entry.generation] * n)}
        pieces.append(pa.table({field.name: columns[field.name] for field in STATUS_SCHEMA}).cast(STATUS_SCHEMA))
    return pa.concat_tables(pieces)


def num_shards_done(catalogue: Catalogue, ledger: Ledger, shard_rows: int) -> int:
    """Return how many shards of the catalogue have an entry that covers all their rows."""
    done, n = 0, catalogue.num_rows
    for entry in ledger.summaries():
        stop = min((entry.shard + 1) * shard_rows, n)
        done += entry.row_stop >= stop and UNDONE.isdisjoint(entry.counts) and entry.row_start < n
    return done


def feature_set_info(
    spec: SetSpec, attributes: Mapping[str, Any], catalogue: Catalogue, ledger: Ledger
) -> FeatureSetInfo:
    """Return a feature set at a glance."""
    assert spec.num_crops is not None
    return FeatureSetInfo(
        num_crops=spec.num_crops,
        dim=spec.dim,
        dtype=spec.dtype,
        shard_rows=spec.shard_rows,
        fingerprint=attributes["fingerprint"],
        fingerprint_id=attributes["fingerprint_id"],
        num_shards=num_shards(catalogue.num_rows, spec.shard_rows),
        num_shards_done=num_shards_done(catalogue, ledger, spec.shard_rows),
        recipe=attributes.get("recipe"),
        network=attributes.get("network"),
    )


def embedding_set_info(
    spec: SetSpec, attributes: Mapping[str, Any], catalogue: Catalogue, ledger: Ledger, version: int
) -> EmbeddingSetInfo:
    """Return an embedding set at a glance."""
    return EmbeddingSetInfo(
        dim=spec.dim,
        dtype=spec.dtype,
        shard_rows=spec.shard_rows,
        fingerprint=attributes["fingerprint"],
        fingerprint_id=attributes["fingerprint_id"],
        num_shards=num_shards(catalogue.num_rows, spec.shard_rows),
        num_shards_done=num_shards_done(catalogue, ledger, spec.shard_rows),
        attrs=dict(attributes.get("attrs") or {}),
        version=version,
    )


def snapshot_id(dataset: str, files: Iterable[str], ledgers: Mapping[SetKey, Ledger]) -> str:
    """Return one id for the catalogue's files and what the ledger entries in force say about the rows.

    Parameters
    ----------
    files : iterable of str
        Digests of the commits, then a line for every side file.
    """
    digest = hashlib.sha256(f"{dataset}\n".encode())
    for line in files:
        digest.update(line.encode())
    for (crops, name), ledger in ledgers.items():
        digest.update(f"\n{crops}/{name}\n".encode())
        for entry in ledger.summaries():
            digest.update(f"{entry.shard}:{entry.content_id};".encode())
    return digest.hexdigest()
