"""How far a set is, row by row, and the id of what a handle sees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.sets.ledger import UNDONE, Ledger
from pipeline.sets.set_files import EmbeddingSetInfo, FeatureSetInfo, SetSpec
from pipeline.status import VideoStatus
from pipeline.storage.layout import num_shards
from pipeline.storage.schema import PENDING, STATUS_SCHEMA
from pipeline.store.catalogue import Catalogue

SetKey = tuple[str | None, str]
"""(crop set, feature set) or (None, embedding set)."""


def status_table(by_row: pa.Table, ledger: Ledger, shard_rows: int, removed: np.ndarray) -> pa.Table:
    """Return what became of every row: STATUS_SCHEMA, by row; `pending` where no ledger entry covers it."""
    n = by_row.num_rows
    columns: dict[str, Any] = {
        "row": np.arange(n),
        "video_id": by_row["video_id"],
        "status": np.full(n, PENDING, object),
        "error": np.full(n, "", object),
        "attempts": np.zeros(n, np.int32),
        "seconds": np.zeros(n),
        "shard": np.arange(n) // shard_rows,
    }
    generations = np.full(n, -1)
    for entry in ledger.entries():
        covered = slice(entry.row_start, min(entry.row_stop, n))
        size = max(0, covered.stop - covered.start)
        for name in ("status", "error", "attempts", "seconds"):
            columns[name][covered] = entry.table[name].to_numpy(zero_copy_only=False)[:size]
        generations[covered] = entry.generation
    columns["status"][removed], columns["error"][removed] = VideoStatus.REMOVED.value, ""
    columns["generation"] = pa.array(generations, mask=generations < 0)
    arrays = [
        column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([pa.array(column, field.type)])
        for field, column in ((f, columns[f.name]) for f in STATUS_SCHEMA)
    ]
    return pa.table(arrays, schema=STATUS_SCHEMA)


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
