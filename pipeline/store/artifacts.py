"""What train, index and probe leave in the store: a few whole files and a `meta.json` that is the switch.

Files are written under names that carry their content's hash, `meta.json` last. Replacing it makes the new version
visible at once; a reader holds the old one until then. The description of the version before stays as `meta-<n>.json`:
`NAME@<n>` opens it, or `NAME@` and the beginning of its content id. Files that no description lists are removed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.cache import cache_folder
from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError, UnsafeNameError
from pipeline.fingerprint import canonical_json, hash_file
from pipeline.names import check_name, did_you_mean
from pipeline.storage.backend import StorageBackend
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import ARTIFACT_KINDS
from pipeline.storage.spare import spare_key
from pipeline.store.descriptions import (
    META,
    OLDER,
    older_digests,
    older_numbers,
    parse_meta,
    read_meta,
    stored_files,
    stored_name,
    write_meta,
)

_CONTENT_ID = re.compile(r"[0-9a-f]{6,64}\Z")


@dataclass(frozen=True)
class Artifact:
    """One model, index or report."""

    kind: str
    name: str
    meta: dict[str, Any]
    """What the writer said about it: recipe, fingerprints, snapshot."""
    files: Mapping[str, str]
    """File name -> sha256."""
    _backend: StorageBackend
    _folder: str
    saved_at: str = ""
    """UTC, ISO 8601."""
    version: int = 1
    """Counted from 1; the highest is what the name alone stands for."""

    @property
    def content_id(self) -> str:
        """sha256 over the files' names and hashes: the same for the same content, whatever its number."""
        return hashlib.sha256(canonical_json(dict(self.files)).encode()).hexdigest()

    @property
    def label(self) -> str:
        """``reports/demo@2``."""
        return f"{self.kind}/{self.name}@{self.version}"

    def read(self, file: str) -> bytes:
        """Return the bytes of a file, its hash checked.

        Raises
        ------
        NotFoundError
            If the artifact has no such file.
        CorruptDataError
            If it is not what was saved.
        """
        data = self._backend.read(self._key(file))
        if hashlib.sha256(data).hexdigest() != self.files[file]:
            raise self._damaged(file)
        return data

    def is_whole(self) -> bool:
        """Whether every file is there and what was saved; in an object store, whether it is there."""
        for file, digest in self.files.items():
            path = self._backend.local_path(self._key(file))
            if path is None:
                if not self._backend.exists(self._key(file)):
                    return False
            elif not path.is_file() or hash_file(path) != digest:
                return False
        return True

    def size(self, file: str) -> int:
        """Return the bytes of a file as it is stored; 0 where it is gone."""
        try:
            return self._backend.size(self._key(file))
        except NotFoundError:
            return 0

    def local_path(self, file: str) -> Path:
        """Return the path of a file, its hash checked; files of an object store are fetched into the cache folder.

        Raises
        ------
        NotFoundError, CorruptDataError
            As :meth:`read`.
        """
        path = self._backend.local_path(self._key(file))
        if path is None:
            path = cache_folder() / self.files[file] / file
            if not path.is_file() or hash_file(path) != self.files[file]:
                LocalBackend(path.parent).put(file, self.read(file))
            return path
        if not path.is_file():
            raise NotFoundError(f"expected file {file} of {self.kind}/{self.name}, found none; make it again")
        if hash_file(path) != self.files[file]:
            raise self._damaged(file)
        return path

    def _key(self, file: str) -> str:
        if file not in self.files:
            raise NotFoundError(f"expected a file of {self.kind}/{self.name} ({', '.join(self.files)}), found {file!r}")
        return f"{self._folder}/{stored_name(file, self.files[file])}"

    def _damaged(self, file: str) -> CorruptDataError:
        return CorruptDataError(
            f"{self.kind}/{self.name}: expected {file} with sha256 {self.files[file]}, found other bytes; make it again"
        )


def save_artifact(
    backend: StorageBackend,
    dataset: str,
    kind: str,
    name: str,
    files: Mapping[str, bytes | Path],
    meta: Mapping[str, Any],
) -> Artifact:
    """Write an artifact; see :meth:`Dataset.save_artifact`."""
    folder = _folder(dataset, kind, name)
    with exclusive(backend, folder):  # or one writer would sweep away what the other has not listed yet
        return _save(backend, folder, kind, name, files, meta)


def _save(
    backend: StorageBackend,
    folder: str,
    kind: str,
    name: str,
    files: Mapping[str, bytes | Path],
    meta: Mapping[str, Any],
) -> Artifact:
    version = _keep_newest(backend, folder)
    hashes: dict[str, str] = {}
    for file, content in files.items():
        check_name(file)
        if file == META or OLDER.match(file):
            raise UnsafeNameError(f"expected a file name other than {META}, found {file}; the store writes such files")
        data = content if isinstance(content, bytes | bytearray | memoryview) else Path(content).read_bytes()
        hashes[file] = hashlib.sha256(data).hexdigest()
        backend.put(f"{folder}/{stored_name(file, hashes[file])}", data)
    described = {"version": version, "meta": json.loads(canonical_json(dict(meta))), "files": hashes}
    saved_at = datetime.now(UTC).isoformat(timespec="seconds")
    body: dict[str, Any] = {"place": folder, **described, "saved_at": saved_at, "older": older_digests(backend, folder)}
    write_meta(backend, folder, body)
    _sweep(backend, folder)
    return Artifact(kind, name, body["meta"], hashes, backend, folder, saved_at, version)


def _keep_newest(backend: StorageBackend, folder: str) -> int:
    """Keep the description of the version that stands, under its number; return the next one's."""
    try:
        raw, described = read_meta(backend, folder)
    except (NotFoundError, CorruptDataError):  # none yet, or one that nobody can read any more
        return max(older_numbers(backend, folder), default=0) + 1
    number = described.version
    for key in (f"{folder}/meta-{number}.json", spare_key(f"{folder}/meta-{number}.json")):
        backend.put(key, raw)
    return number + 1


def _sweep(backend: StorageBackend, folder: str) -> None:
    """Remove files that no version lists; nothing where a description cannot be read."""
    current = {META}
    try:
        newest = read_meta(backend, folder)[1]
        current |= {stored_name(f, h) for f, h in newest.files.items()}
        for number in older_numbers(backend, folder):
            kept = read_meta(backend, folder, number)[1]
            current |= {f"meta-{number}.json"} | {stored_name(f, h) for f, h in kept.files.items()}
    except CorruptDataError:
        return
    for key, _ in backend.list(folder):
        if key.removeprefix(f"{folder}/") not in current and "_lock/" not in key:
            backend.delete(key)


def split_version(name: str) -> tuple[str, str]:
    """Return name and version of ``NAME@VERSION``; the version is empty where none is asked for."""
    base, _, version = name.partition("@")
    return base, version


def artifact_versions(backend: StorageBackend, dataset: str, kind: str, name: str) -> list[Artifact]:
    """Return every version of an artifact, oldest first; those whose description cannot be read are left out.

    Raises
    ------
    NotFoundError
        If there is no artifact of the name.
    """
    newest = load_artifact(backend, dataset, kind, name)
    found = [newest]
    for number in older_numbers(backend, newest._folder):
        if number < newest.version:
            try:
                found.append(_loadolder_numbers(backend, newest, number))
            except (NotFoundError, CorruptDataError):
                continue
    return sorted(found, key=lambda one: one.version)


def _loadolder_numbers(backend: StorageBackend, newest: Artifact, number: int) -> Artifact:
    folder = newest._folder
    _, body = read_meta(backend, folder, number)
    return Artifact(newest.kind, newest.name, body.meta, body.files, backend, folder, body.saved_at, number)


def model_with_weights(backend: StorageBackend, dataset: str, name: str, weights_sha256: str) -> Artifact | None:
    """Return the version of a model that has these weights; None where it was pruned, or never numbered."""
    try:
        versions = artifact_versions(backend, dataset, "models", name)
    except NotFoundError:
        return None
    return next((one for one in reversed(versions) if one.meta.get("weights_sha256") == weights_sha256), None)


def drop_version(backend: StorageBackend, artifact: Artifact) -> int:
    """Remove an older version, and the files that no other version has; return how many bytes that freed.

    Raises
    ------
    InvalidInputError
        If it is the newest one.
    """
    folder = artifact._folder
    with exclusive(backend, folder):
        before = sum(size for _, size in backend.list(folder))
        if artifact.version not in older_numbers(backend, folder):
            raise InvalidInputError(f"expected an older version, found {artifact.label}, which the name stands for")
        key = f"{folder}/meta-{artifact.version}.json"
        body = json.loads(read_meta(backend, folder)[0])
        if body.get("older", {}).pop(str(artifact.version), None) is not None:
            write_meta(backend, folder, body)
        backend.delete(spare_key(key))
        backend.delete(key)
        _sweep(backend, folder)
        return before - sum(size for _, size in backend.list(folder))


def load_artifact(backend: StorageBackend, dataset: str, kind: str, name: str) -> Artifact:
    """Open an artifact; see :meth:`Dataset.artifact`."""
    name, version = split_version(name)
    folder = _folder(dataset, kind, name)
    if version:
        return _pick_version(artifact_versions(backend, dataset, kind, name), version)
    try:
        _, body = read_meta(backend, folder)
        if not backend.exists(f"{folder}/{META}") and not _has_files(backend, folder, body.files):
            raise NotFoundError("removed, and only the copy of its description is left")
    except NotFoundError:
        there = list_artifacts(backend, dataset, kind)
        raise NotFoundError(
            f"expected {kind}/{name} in dataset {dataset}, found: {', '.join(there) or 'none'}"
            f"{did_you_mean(name, there)}"
        ) from None
    return Artifact(kind, name, body.meta, body.files, backend, folder, body.saved_at, body.version)


def _pick_version(versions: list[Artifact], wanted: str) -> Artifact:
    found = [one for one in versions if wanted == str(one.version)]
    if not found and _CONTENT_ID.match(wanted):
        found = [one for one in versions if one.content_id.startswith(wanted)]
    if not found:
        newest = versions[-1]
        there = ", ".join(f"{one.version} ({one.content_id[:12]})" for one in versions)
        raise NotFoundError(f"expected a version of {newest.kind}/{newest.name} out of {there}, found {wanted!r}")
    return found[-1]


def _is_there(backend: StorageBackend, folder: str) -> bool:
    """Whether an artifact is described; where only the copy is left, its files have to be there too."""
    if backend.exists(f"{folder}/{META}"):
        return True
    try:
        body = parse_meta(backend.read(spare_key(f"{folder}/{META}")), folder)
    except (NotFoundError, CorruptDataError):
        return False
    return _has_files(backend, folder, body.files)


def _has_files(backend: StorageBackend, folder: str, files: Mapping[str, str]) -> bool:
    return all(backend.exists(key) for key in stored_files(folder, files))


def list_artifacts(backend: StorageBackend, dataset: str, kind: str) -> list[str]:
    """Return the names of the artifacts of a kind."""
    folder = f"{dataset}/{_checked_kind(kind)}"
    return [name for name in backend.folders(folder) if _is_there(backend, f"{folder}/{name}")]


def _folder(dataset: str, kind: str, name: str) -> str:
    return f"{dataset}/{_checked_kind(kind)}/{check_name(name)}"


def _checked_kind(kind: str) -> str:
    if kind not in ARTIFACT_KINDS:
        raise InvalidInputError(f"expected a kind of {', '.join(ARTIFACT_KINDS)}, found {kind!r}")
    return kind
