"""Withdrawal from what was made of the features: indexes go whole, reports lose the row, what shows it goes.

Models stay: their weights were trained with the video, and only training again takes that back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.storage.backend import StorageBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.parquet import read_parquet
from pipeline.storage.spare import SUFFIX, spare_key
from pipeline.store.artifacts import (
    Artifact,
    artifact_versions,
    drop_version,
    list_artifacts,
    load_artifact,
    save_artifact,
)
from pipeline.store.descriptions import META, is_description, stored_files

ERASED = "rows_erased"
"""In a report's description: how many rows left it after it was written."""


@dataclass(frozen=True)
class Traces:
    """What gives a removed video away."""

    rows: frozenset[int]
    texts: tuple[str, ...]
    """Its id, its address, the hash of its file."""

    def in_bytes(self, data: bytes) -> bool:
        """Whether some bytes hold one of the texts, as it is, as JSON or as part of an address."""
        return any(form in data for form in self._forms())

    def _forms(self) -> Iterable[bytes]:
        for text in self.texts:
            for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], quote(text)):
                yield form.encode(errors="surrogatepass")

    def names(self, value: Any) -> bool:
        """Whether a text is, or holds, one of the texts."""
        return isinstance(value, str) and any(text in value for text in self.texts)


def erase_from_indexes(backend: StorageBackend, dataset: str) -> list[str]:
    """Delete the indexes and maps of a dataset, older versions included: whose is what cannot be told apart.

    Returns the names of the indexes.
    """
    for name in backend.folders(f"{dataset}/maps"):
        _drop(backend, f"{dataset}/maps/{name}")
    return [name for name in backend.folders(f"{dataset}/indexes") if _drop(backend, f"{dataset}/indexes/{name}")]


def erase_from_reports(backend: StorageBackend, dataset: str, traces: Traces) -> list[str]:
    """Take the rows out of every report; return the names of those that had something of them.

    Predictions and lists in the JSON lose the row, numbers stay; pages and pictures that may show it go.
    """
    touched = []
    for name in list_artifacts(backend, dataset, "reports"):
        artifact = load_artifact(backend, dataset, "reports", name)
        files, meta, has_changed = _taken_apart(artifact, traces)
        if has_changed:
            save_artifact(backend, dataset, "reports", name, files, {**meta, ERASED: len(traces.rows)})
            touched.append(name)
        for older in artifact_versions(backend, dataset, "reports", name)[:-1]:
            if _taken_apart(older, traces)[2]:
                drop_version(backend, older)
                touched.append(name)
    known = list_artifacts(backend, dataset, "reports")
    for name in backend.folders(f"{dataset}/reports"):  # what nothing lists any more
        folder = f"{dataset}/reports/{name}"
        listed = _listed(backend, dataset, name) if name in known else None
        for key, _ in backend.list(folder):
            if "_lock/" in key or (listed is not None and key in listed):
                continue
            if listed is not None or _holds(backend.read(key), key, traces):
                backend.delete(key)  # of a report that is there: a page that a killed erasure left may show them
                touched.append(name)
    return sorted(set(touched))


def _listed(backend: StorageBackend, dataset: str, name: str) -> set[str]:
    """Return the keys of a report's descriptions and of the files that they list."""
    folder = f"{dataset}/reports/{name}"
    keys = {key for key, _ in backend.list(folder) if is_description(key.removeprefix(f"{folder}/"))}
    for version in artifact_versions(backend, dataset, "reports", name):
        keys |= stored_files(folder, version.files).keys()
    return keys


def _taken_apart(artifact: Artifact, traces: Traces) -> tuple[dict[str, bytes], dict[str, Any], bool]:
    """Return a report's files and description without the rows, and whether that takes anything away."""
    files: dict[str, bytes] = {}
    has_changed = False
    for file in artifact.files:
        try:
            data = artifact.read(file)
        except (NotFoundError, CorruptDataError):
            has_changed = True  # nobody can say what it holds
            continue
        cleaned = _cleaned(file, data, traces)
        has_changed |= cleaned != data
        if cleaned is not None:
            files[file] = cleaned
    meta = artifact.meta
    if traces.in_bytes(json.dumps(meta, ensure_ascii=False).encode()):
        return files, _without(meta, traces), True
    return files, meta, has_changed


def _cleaned(file: str, data: bytes, traces: Traces) -> bytes | None:
    """Return a file without the rows; None where it cannot be taken apart and may show them."""
    if file.endswith(".parquet"):
        table = read_parquet(data)
        kept = _lines_kept(table, traces)
        return data if kept.num_rows == table.num_rows else _as_parquet(kept)
    if file.endswith(".json"):
        content = json.loads(data)
        pruned = _without(content, traces)
        return data if pruned == content else json.dumps(pruned, ensure_ascii=False).encode()
    return None  # a page: its pictures say nothing of whose they are


def _lines_kept(table: pa.Table, traces: Traces) -> pa.Table:
    if "row" not in table.column_names:
        return table
    gone = pa.array(sorted(traces.rows), table.schema.field("row").type)
    return table.filter(pc.invert(pc.is_in(table["row"], value_set=gone)))


def _as_parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _without(content: Any, traces: Traces) -> Any:
    """Return JSON without the list items, and the values, that speak of the rows."""
    if isinstance(content, dict):
        return {
            name: None if traces.names(value) else _without(value, traces)
            for name, value in content.items()
            if not traces.names(name)
        }
    if isinstance(content, list):
        return [_without(item, traces) for item in content if not _speaks_of(item, traces)]
    return content


def _speaks_of(item: Any, traces: Traces) -> bool:
    """Whether a list item is about one of the rows: it or something in it names the video."""
    if isinstance(item, dict):
        return any(_speaks_of(value, traces) for value in item.values() if not isinstance(value, list)) or any(
            traces.names(value) for held in item.values() if isinstance(held, list) for value in held
        )
    if isinstance(item, list):
        return any(traces.names(value) for value in item)
    return traces.names(item)


def _holds(data: bytes, key: str, traces: Traces) -> bool:
    if key.endswith(".parquet"):
        try:
            table = read_parquet(data)
        except (pa.ArrowException, OSError):
            return True
        return _lines_kept(table, traces).num_rows < table.num_rows
    return traces.in_bytes(data)


def _drop(backend: StorageBackend, folder: str) -> bool:
    """Delete an artifact; its description first, so that nobody finds half of it."""
    listed = [key for key, _ in backend.list(folder) if "_lock/" not in key]
    copies = [key for key, _ in backend.list(spare_key(folder).removesuffix(SUFFIX))]
    if not listed and not copies:
        return False
    with exclusive(backend, folder):
        for key in (*copies, f"{folder}/{META}", *listed):
            backend.delete(key)
    return True
