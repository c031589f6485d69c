"""What a `meta.json` says, and where: descriptions of the versions of a model, index or report, each with its copy.

``meta.json`` describes the newest version and names the sha256 of every older description that is kept, so that one
that is missing, changed or put back is seen.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.fingerprint import canonical_json
from pipeline.names import check_name
from pipeline.storage.backend import StorageBackend
from pipeline.storage.shardfile import crc32c
from pipeline.storage.spare import read_spared, spare_key

META = "meta.json"
OLDER = re.compile(r"meta-([1-9][0-9]*)\.json\Z")
"""Descriptions of older versions."""


class Description(NamedTuple):
    """What a `meta.json` says."""

    meta: dict[str, Any]
    files: dict[str, str]
    saved_at: str
    version: int
    older: dict[str, str] | None = None
    """Number -> sha256 of the descriptions of older versions; None where it was written before they were named."""


def parse_meta(raw: bytes, folder: str, number: int | None = None) -> Description:
    """Return what an artifact's description says.

    Parameters
    ----------
    number : int, optional
        Of which version it has to be; the newest may have any.

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
        version = int(body.get("version", 1))  # stores of before did not count
        older = {str(n): str(h) for n, h in body["older"].items()} if "older" in body else None
        if body.get("place", folder) != folder:  # schema 1 did not say
            raise ValueError(f"it describes {body['place']}")
        if number is not None and version != number:
            raise ValueError(f"it describes version {version}, not {number}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CorruptDataError(f"{what}: expected the description of an artifact, found: {err}") from err
    for file, digest in files.items():
        check_name(file)
        if len(digest) != 64 or not all(c in "0123456789abcdef" for c in digest):
            raise CorruptDataError(f"{what}: expected a sha256 for {file}, found {digest!r}")
    return Description(meta, files, str(body.get("saved_at", "")), version, older)


def write_meta(backend: StorageBackend, folder: str, body: Mapping[str, Any]) -> None:
    """Write a description and its copy, sealed anew."""
    sealed = {name: value for name, value in body.items() if name != "seal_crc32c"}
    sealed["seal_crc32c"] = crc32c(canonical_json(sealed).encode())
    data = json.dumps(sealed, indent=1).encode()
    backend.put(f"{folder}/{META}", data)
    backend.put(spare_key(f"{folder}/{META}"), data)


def older_digests(backend: StorageBackend, folder: str) -> dict[str, str]:
    """Return the sha256 of every older description that is kept, by its number: the newest names them."""
    found = {}
    for number in older_numbers(backend, folder):
        with suppress(CorruptDataError, NotFoundError):  # a version that nobody can open is not named
            found[str(number)] = hashlib.sha256(read_meta(backend, folder, number)[0]).hexdigest()
    return found


def read_meta(backend: StorageBackend, folder: str, number: int | None = None) -> tuple[bytes, Description]:
    """Return a description, from its copy where the file is gone or damaged; of the newest version without a number."""
    key = f"{folder}/{META if number is None else f'meta-{number}.json'}"
    return read_spared(backend, key, lambda raw: (raw, parse_meta(raw, folder, number)))


def older_numbers(backend: StorageBackend, folder: str) -> list[int]:
    """Return the numbers of the older versions whose descriptions are there, ascending."""
    keys = (key.removeprefix(f"{folder}/") for key, _ in backend.list(folder, recursive=False))
    return sorted(int(match[1]) for key in keys if (match := OLDER.match(key)))


def is_description(name: str) -> bool:
    """Whether a file of an artifact's folder describes a version."""
    return name == META or OLDER.match(name) is not None


def stored_files(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    """Return key -> sha256 of the files that an artifact's description lists."""
    return {f"{folder}/{stored_name(file, digest)}": digest for file, digest in files.items()}


def stored_name(file: str, digest: str) -> str:
    """Return the name under which a file of this sha256 is stored."""
    stem, dot, suffix = file.partition(".")
    return f"{stem}-{digest[:12]}{dot}{suffix}"
