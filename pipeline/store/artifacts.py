"""What train, index and probe leave in the store: a few whole files and a `meta.json` that is the switch.

Files are written under names that carry their content's hash, `meta.json` last. Replacing it makes the new version
visible at once; a reader holds the old one until then. Names that no `meta.json` lists any more are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.cache import cache_folder
from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError, UnsafeNameError
from pipeline.fingerprint import canonical_json, hash_file
from pipeline.names import check_name
from pipeline.storage.backend import StorageBackend
from pipeline.storage.locks import exclusive
from pipeline.storage.opening import open_backend
from pipeline.storage.schema import ARTIFACT_KINDS
from pipeline.storage.shardfile import crc32c
from pipeline.storage.spare import read_spared, spare_key

META = "meta.json"


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
                open_backend(path.parent).put(file, self.read(file))
            return path
        if not path.is_file():
            raise NotFoundError(f"expected file {file} of {self.kind}/{self.name}, found none; make it again")
        if hash_file(path) != self.files[file]:
            raise self._damaged(file)
        return path

    def _key(self, file: str) -> str:
        if file not in self.files:
            raise NotFoundError(f"expected a file of {self.kind}/{self.name} ({', '.join(self.files)}), found {file!r}")
        return f"{self._folder}/{_stored_name(file, self.files[file])}"

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
    hashes: dict[str, str] = {}
    for file, content in files.items():
        check_name(file)
        if file == META:
            raise UnsafeNameError(f"expected a file name other than {META}, found it; that one is written by the store")
        data = content if isinstance(content, bytes | bytearray | memoryview) else Path(content).read_bytes()
        hashes[file] = hashlib.sha256(data).hexdigest()
        backend.put(f"{folder}/{_stored_name(file, hashes[file])}", data)
    body: dict[str, Any] = {"place": folder, "meta": json.loads(canonical_json(dict(meta))), "files": hashes,
                            "saved_at": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
    body["seal_crc32c"] = crc32c(canonical_json(body).encode())
    data = json.dumps(body, indent=1).encode()
    backend.put(f"{folder}/{META}", data)
    backend.put(spare_key(f"{folder}/{META}"), data)
    current = {_stored_name(f, h) for f, h in hashes.items()} | {META}
    for key, _ in backend.list(folder):
        if key.removeprefix(f"{folder}/") not in current and "_lock/" not in key:
            backend.delete(key)
    return Artifact(kind, name, body["meta"], hashes, backend, folder, body["saved_at"])


def load_artifact(backend: StorageBackend, dataset: str, kind: str, name: str) -> Artifact:
    """Open an artifact; see :meth:`Dataset.artifact`."""
    folder = _folder(dataset, kind, name)
    try:
        meta, files, saved_at = read_spared(backend, f"{folder}/{META}", lambda raw: parse_meta(raw, folder))
        if not backend.exists(f"{folder}/{META}") and not _has_files(backend, folder, files):
            raise NotFoundError("removed, and only the copy of its description is left")
    except NotFoundError:
        there = ", ".join(list_artifacts(backend, dataset, kind)) or "none"
        raise NotFoundError(f"expected {kind}/{name} in dataset {dataset}, found: {there}") from None
    return Artifact(kind, name, meta, files, backend, folder, saved_at)


def parse_meta(raw: bytes, folder: str) -> tuple[dict[str, Any], dict[str, str], str]:
    """Return what an artifact's description says, its files, and when it was saved.

    Raises
    ------
    CorruptDataError
        If it is not the description that was written there.
    """
    what = f"{folder}/{META}"
    try:
        body = json.loads(raw)
        seal = body.pop("seal_crc32c")
        if seal != crc32c(canonical_json(body).encode()):
            raise ValueError("its seal does not hold")
        meta, files = dict(body["meta"]), {str(f): str(h) for f, h in body["files"].items()}
        if body.get("place", folder) != folder:  # schema 1 did not say
            raise ValueError(f"it describes {body['place']}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CorruptDataError(f"{what}: expected the description of an artifact, found: {err}") from err
    for file, digest in files.items():
        check_name(file)
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise CorruptDataError(f"{what}: expected a sha256 for {file}, found {digest!r}")
    return meta, files, str(body.get("saved_at", ""))


def _is_there(backend: StorageBackend, folder: str) -> bool:
    """Whether an artifact is described; where only the copy is left, its files have to be there too."""
    if backend.exists(f"{folder}/{META}"):
        return True
    try:
        _, files, _ = parse_meta(backend.read(spare_key(f"{folder}/{META}")), folder)
    except (NotFoundError, CorruptDataError):
        return False
    return _has_files(backend, folder, files)


def _has_files(backend: StorageBackend, folder: str, files: Mapping[str, str]) -> bool:
    return all(backend.exists(f"{folder}/{_stored_name(f, h)}") for f, h in files.items())


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


def _stored_name(file: str, digest: str) -> str:
    stem, dot, suffix = file.partition(".")
    return f"{stem}-{digest[:12]}{dot}{suffix}"
