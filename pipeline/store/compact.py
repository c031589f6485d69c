"""Compacting a store: many small files into a few larger ones, at any time, beside whoever reads and writes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ConflictError
from pipeline.events import OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.sets.compaction import MIN_LOOSE, Compacted, compact_ledger
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.store.indexing import MIN_IDS, index_commits, index_ids

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What :func:`compact_store` did."""

    num_ledgers: int
    """Sets that were looked at."""
    num_entries: int
    """Ledger entries that lay in files of their own and are in a pack now."""
    num_packs: int
    num_merged: int
    """Smaller packs that went into larger ones."""
    num_indexed: int
    """Videos whose ids were put into an index of ids."""

    def summary(self) -> str:
        """One line."""
        did = []
        if self.num_packs:
            merged = f", {self.num_merged} smaller packs among them" if self.num_merged else ""
            entries = f"{self.num_entries} ledger entries of {self.num_ledgers} set(s)"
            did.append(f"{entries} went into {self.num_packs} packs{merged}")
        if self.num_indexed:
            did.append(f"{self.num_indexed} video ids went into an index")
        return "; ".join(did) or f"nothing to compact in {self.num_ledgers} set(s)"


def compact_store(
    store: FeatureStore, on_event: OnEvent = ignore, *, min_loose: int = MIN_LOOSE, min_ids: int = MIN_IDS
) -> CompactReport:
    """Put the ledger entries of finished shards together; no answer and no snapshot changes.

    May be killed at any instant, run again, and run by several at once, beside readers and writers.

    Parameters
    ----------
    min_loose : int
        Sets with fewer entries in files of their own are left as they are.
    min_ids : int
        Datasets with fewer videos that no index of ids knows are left as they are.

    Raises
    ------
    ConflictError
        If the store was opened for reading.
    CorruptDataError
        If a pack that must be there is not: restore it first.
    """
    if store.mode == "r":
        raise ConflictError(f"expected {store.url} opened with mode 'a' to compact it, found mode 'r'")
    ledgers = [key for name in store.datasets() for key in ledger_keys(store.backend, name)]
    started = time.monotonic()
    on_event(StageStarted("compact", total=len(ledgers), unit="sets", detail=store.url))
    done: list[Compacted] = []
    for ledger in ledgers:
        done.append(compact_ledger(store.backend, ledger, min_loose=min_loose))
        on_event(Progress("compact", done=len(done), total=len(ledgers)))
    for name in store.datasets():
        index_commits(store.backend, name)
    report = CompactReport(
        len(ledgers), sum(d.num_entries for d in done), sum(d.num_packs for d in done), sum(d.num_merged for d in done),
        num_indexed=sum(index_ids(store.backend, name, min_ids=min_ids) for name in store.datasets()),
    )  # fmt: skip
    on_event(StageFinished("compact", report.summary(), time.monotonic() - started))
    return report


def ledger_keys(backend: StorageBackend, dataset: str) -> list[str]:
    """Return the folders of all ledgers of a dataset."""
    found = [
        schema.feature_ledger_key(dataset, crops, name)
        for crops in backend.folders(f"{dataset}/crops")
        for name in backend.folders(f"{schema.crop_set_key(dataset, crops)}/ledger")
    ]
    names = backend.folders(f"{dataset}/embeddings")
    return found + [schema.embedding_ledger_key(dataset, name) for name in names if not name.startswith("_")]
