"""From schema 1 to schema 2: names are put to what had only numbers, and small metadata is copied.

Every shard gets a ledger entry of the next generation that names its videos and is otherwise the same; catalogue files,
groups and artifacts get the copies that they lack; groups and artifacts say where they belong. No array byte and no
snapshot changes. The root is stamped last: a process that is killed before leaves a store of schema 1 in which running
again goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import NotFoundError, StoreNotFoundError
from pipeline.events import OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.fingerprint import canonical_json
from pipeline.sets.arrays import group_json, group_key, read_group
from pipeline.sets.ledger import Ledger, entry_key
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.opening import open_backend
from pipeline.storage.shardfile import crc32c
from pipeline.storage.spare import spare_key
from pipeline.store.appending import mended_catalogue
from pipeline.store.artifacts import list_artifacts
from pipeline.store.descriptions import META, parse_meta
from pipeline.store.video_rows import VideoRows

ARRAYS_SET_ASIDE = ("values", "valid")


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What :func:`upgrade_store` did."""

    url: str
    from_version: int
    num_datasets: int
    num_entries: int
    """Ledger entries that were written."""

    def summary(self) -> str:
        """One line."""
        if self.from_version == schema.SCHEMA_VERSION:
            return f"{self.url} is of schema {schema.SCHEMA_VERSION} already"
        return (
            f"{self.url}: schema {self.from_version} to {schema.SCHEMA_VERSION}, {self.num_datasets} dataset(s), "
            f"{self.num_entries} ledger entries written"
        )


def upgrade_store(url: str | Path | StorageBackend, on_event: OnEvent = ignore) -> UpgradeReport:
    """Bring a store to the present schema; may be interrupted at any instant and run again.

    Raises
    ------
    StoreNotFoundError
        If there is none at this address.
    CorruptDataError
        If something in it is damaged: repair it first with the version that wrote it, or restore it.
    """
    backend = open_backend(url, writable=True)
    try:
        attributes = read_group(backend, "", schema.STORE_KIND)
    except StoreNotFoundError:
        raise
    except NotFoundError:
        raise StoreNotFoundError(f"expected a feature store at {backend.url}, found none; check the address") from None
    version = int(attributes["schema_version"])
    if version == schema.SCHEMA_VERSION:
        return UpgradeReport(backend.url, version, 0, 0)
    names = [n for n in backend.folders() if backend.exists(f"{n}/{schema.ZARR_JSON}")]
    on_event(StageStarted("upgrade", total=len(names), unit="datasets", detail=backend.url))
    num_entries = 0
    for done, name in enumerate(names, start=1):
        num_entries += sum(_upgrade_dataset(backend, name))
        on_event(Progress("upgrade", done=done, total=len(names)))
    _place_group(backend, "", {**attributes, "schema_version": schema.SCHEMA_VERSION})
    report = UpgradeReport(backend.url, version, len(names), num_entries)
    on_event(StageFinished("upgrade", report.summary(), 0.0))
    return report


def _upgrade_dataset(backend: StorageBackend, dataset: str) -> Iterator[int]:
    """Yield how many ledger entries each set got."""
    binding = VideoRows(backend, dataset, mended_catalogue(backend, dataset))
    _place_group(backend, dataset, read_group(backend, dataset, "dataset"))
    for crops in _made(backend, f"{dataset}/crops"):
        folder = schema.crop_set_key(dataset, crops)
        _place_group(backend, folder, read_group(backend, folder, "crop_set"))
        for name in _made(backend, f"{folder}/features"):
            group = schema.feature_set_key(dataset, crops, name)
            _place_group(backend, group, read_group(backend, group, "feature_set"))
            yield _name_videos(backend, schema.feature_ledger_key(dataset, crops, name), binding)
    for name in _made(backend, f"{dataset}/embeddings"):
        group = schema.embedding_set_key(dataset, name)
        _place_group(backend, group, read_group(backend, group, "embedding_set"))
        yield _name_videos(backend, schema.embedding_ledger_key(dataset, name), binding)
    for kind in schema.ARTIFACT_KINDS:
        for name in list_artifacts(backend, dataset, kind):
            _place_artifact(backend, f"{dataset}/{kind}/{name}")


def _made(backend: StorageBackend, folder: str) -> list[str]:
    return [name for name in backend.folders(folder) if backend.exists(f"{folder}/{name}/{schema.ZARR_JSON}")]


def _place_group(backend: StorageBackend, folder: str, attributes: dict[str, Any]) -> None:
    """Write a group with its place, and its copy before it."""
    data = group_json({**attributes, "place": folder})
    key = group_key(folder)
    if backend.read(key) != data:
        backend.put(spare_key(key), data)
        backend.put(key, data)
    elif not backend.exists(spare_key(key)):
        backend.put(spare_key(key), data)


def _place_artifact(backend: StorageBackend, folder: str) -> None:
    key = f"{folder}/{META}"
    with exclusive(backend, folder):
        raw = backend.read(key)
        parse_meta(raw, folder)
        body = json.loads(raw)
        body.pop("seal_crc32c")
        body["place"] = folder
        body["seal_crc32c"] = crc32c(canonical_json(body).encode())
        data = json.dumps(body, indent=1).encode()
        backend.put(spare_key(key), data)
        backend.put(key, data)


def _name_videos(backend: StorageBackend, key: str, binding: VideoRows) -> int:
    """Write the next generation of every entry that names no video; return how many."""
    with exclusive(backend, key):
        entries = [entry for entry in Ledger(backend, key, binding=binding).entries() if entry.video_keys is None]
        for entry in entries:
            after = _named(entry, key, binding)
            for array in ARRAYS_SET_ASIDE:  # what a killed retry set aside goes with the entry that vouches for it
                old = schema.previous_key(key, array, entry.shard, entry.generation)
                if backend.exists(old):
                    backend.put(schema.previous_key(key, array, entry.shard, after.generation), backend.read(old))
            backend.create(entry_key(key, after.shard, after.generation), after.encode())
    return len(entries)


def _named(entry: LedgerEntry, ledger: str, binding: VideoRows) -> LedgerEntry:
    keys = binding.keys(entry.row_start, entry.row_stop)
    place = entry.table.column_names.index("video_key")
    table = entry.table.set_column(place, schema.LEDGER_SCHEMA.field("video_key"), pa.array(keys))
    return replace(entry, generation=entry.generation + 1, table=table, ledger=ledger)
