"""Spare copies of small metadata, and what a repair sets aside.

Every sealed group and every artifact's description is written a second time under ``<dataset>/_copies``. The copies
are also the list of what must exist: that a file was deleted can be told from nothing else. Readers use the copy where
the file is gone or damaged; the next writer, or a repair, puts it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError, SchemaVersionError, UnsafeNameError
from pipeline.storage.backend import StorageBackend

T = TypeVar("T")

COPIES = "_copies"
SUFFIX = ".copy"
"""So that plain zarr sees no second tree of groups."""
REPLACED = "_replaced"
MAX_BYTES = 16 << 20
"""Largest description that is believed."""


def spare_key(key: str) -> str:
    """Return where the copy of a file lies: beside the root's files, or in its dataset's folder."""
    dataset, slash, rest = key.partition("/")
    return f"{dataset}/{COPIES}/{rest}{SUFFIX}" if slash else f"{COPIES}/{key}{SUFFIX}"


def spared_keys(backend: StorageBackend, dataset: str) -> list[str]:
    """Return the files of a dataset (``""``: of the root) that have a copy, and so have to be there."""
    folder = f"{dataset}/{COPIES}" if dataset else COPIES
    start = f"{dataset}/" if dataset else ""
    keys = (key for key, _ in backend.list(folder) if key.endswith(SUFFIX))
    return [start + key.removeprefix(f"{folder}/").removesuffix(SUFFIX) for key in keys]


def read_spared(backend: StorageBackend, key: str, parse: Callable[[bytes], T]) -> T:
    """Return what `parse` makes of a file, or of its copy where the file is gone or damaged.

    Raises
    ------
    NotFoundError, CorruptDataError
        What is wrong with the file, where its copy does not serve either.
    """
    try:
        return parse(read_small(backend, key))
    except SchemaVersionError:
        raise
    except (NotFoundError, CorruptDataError) as err:
        with suppress(NotFoundError, CorruptDataError):
            return parse(read_small(backend, spare_key(key)))
        raise err


def read_small(backend: StorageBackend, key: str) -> bytes:
    """Return the bytes of a description; CorruptDataError where there are far more than one has."""
    if backend.is_local and backend.size(key) > MAX_BYTES:
        raise CorruptDataError(f"{key}: expected at most {MAX_BYTES} bytes of metadata, found more")
    return backend.read(key)


def is_there(backend: StorageBackend, key: str) -> bool:
    """Return whether a file is there, or its copy."""
    return backend.exists(key) or backend.exists(spare_key(key))


def mend(backend: StorageBackend, key: str, parse: Callable[[bytes], object]) -> bool:
    """Put a file back from its copy, or the copy from the file, where one of them is gone or damaged. For writers.

    Bytes that are replaced are set aside. Returns whether something was written.
    """
    states: dict[str, bytes | None] = {}
    for place in (key, spare_key(key)):
        try:
            data = read_small(backend, place)
            parse(data)
            states[place] = data
        except (NotFoundError, CorruptDataError):
            states[place] = None
    good = next((data for data in states.values() if data is not None), None)
    if good is None:
        return False
    wrong = [place for place, data in states.items() if data is None]
    if not wrong and states[key] != states[spare_key(key)]:
        wrong = [spare_key(key)]
    for place in wrong:
        set_aside(backend, place)
        with suppress(AlreadyExistsError):
            backend.create(place, good)
    return bool(wrong)


def keep(backend: StorageBackend, key: str) -> str:
    """Copy the bytes of a key under ``_replaced``, so that no repair destroys anything; return where they are.

    A link is removed (what it leads to stays); where there is nothing, nothing happens and ``""`` is returned.
    """
    try:
        data = backend.read(key)
    except NotFoundError:
        return ""
    except UnsafeNameError:
        backend.remove_link(key)
        return ""
    dataset, slash, rest = key.partition("/")
    name = f"{rest if slash else key}-{hashlib.sha256(data).hexdigest()[:12]}"
    kept = f"{dataset}/{REPLACED}/{name}" if slash else f"{REPLACED}/{name}"
    if not backend.exists(kept):
        backend.put(kept, data)
    return kept


def set_aside(backend: StorageBackend, key: str) -> str:
    """Move the bytes of a key under ``_replaced``; see :func:`keep`."""
    kept = keep(backend, key)
    if kept:
        backend.delete(key)
    return kept
