"""Where the bytes of a store lie: one small interface.

Keys are relative paths with ``/``. Everything the store promises about crashes rests on two verbs:

* ``put`` replaces a key as a whole: readers see the old bytes or the new ones, never a mixture;
* ``create`` makes a key that did not exist, and of two racing calls exactly one succeeds.

Both are durable when they return: file and folder are fsynced (local), or the service has acknowledged (object store).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

from pipeline.errors import UnsafeNameError

BytesLike: TypeAlias = bytes | bytearray | memoryview
Listing: TypeAlias = list[tuple[str, int]]  # (key, size in bytes); also keeps `list` the type inside the classes below
Names: TypeAlias = list[str]

PARTIAL_SUFFIX = ".partial"
"""Ending of temporary files. A killed process may leave some; no reader ever looks at them."""
_FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f]")
_FORBIDDEN_PARTS = frozenset({"", ".", ".."})


@runtime_checkable
class StorageBackend(Protocol):
    """What the store needs from the place where its bytes lie. Thread-safe; keys are relative, with ``/``."""

    @property
    def url(self) -> str:
        """Address that :func:`pipeline.storage.opening.open_backend` opens again."""

    @property
    def is_local(self) -> bool:
        """Whether keys are files that can be memory-mapped."""

    def read(self, key: str) -> bytes:
        """Return all bytes of a key; NotFoundError when there is no such key."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start` (negative: from the end); CorruptDataError is the caller's to raise."""

    def size(self, key: str) -> int:
        """Return the number of bytes of a key; NotFoundError when there is no such key."""

    def exists(self, key: str) -> bool:
        """Return whether the key exists (a folder is no key)."""

    def put(self, key: str, data: BytesLike) -> None:
        """Write or replace a key as a whole, durably."""

    def create(self, key: str, data: BytesLike) -> None:
        """Write a key that must not exist, durably; AlreadyExistsError when another was first."""

    def delete(self, key: str) -> None:
        """Remove a key; nothing happens when it is not there."""

    def remove_link(self, key: str) -> None:
        """Remove a key that is a symbolic link, wherever it leads; what it leads to stays. Nothing for other keys."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove many keys, as :meth:`delete`, with as few requests as the place allows; in no order."""

    def list(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """Return (key, size in bytes) of every key in the folder `prefix`, sorted, without temporary files."""

    def folders(self, prefix: str = "") -> Names:
        """Return the sorted names of the folders directly in the folder `prefix`."""

    def leftovers(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """Return (key, size in bytes) of temporary files that killed writers left."""

    def links(self, prefix: str = "") -> Names:
        """Return the keys of symbolic links that lead out of the store, sorted."""

    def local_name(self, key: str) -> str | None:
        """Return :meth:`local_path` as text, for who opens thousands of files: a Path takes longer than to open it."""

    def local_path(self, key: str) -> Path | None:
        """Return the file of a key for mapping (it need not exist), or None where there are no files."""

    def zarr_store(self, *, read_only: bool = True) -> Any:
        """Return a zarr store over the same keys; what is written through it is as durable as `put`."""


def check_key(key: str) -> str:
    """Return `key` if it cannot leave the store.

    Raises
    ------
    UnsafeNameError
        If it is empty or absolute, or has an empty part, ``.``, ``..``, a backslash or a control character.
    """
    if _FORBIDDEN.search(key) or not _FORBIDDEN_PARTS.isdisjoint(key.split("/")):
        raise UnsafeNameError(
            f"expected a relative key inside the store, found {key!r}; use names without '..', '\\' and leading '/'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the folder `prefix` without a trailing slash, checked like a key; ``""`` is the whole store."""
    stripped = prefix.rstrip("/") if prefix != "/" else prefix
    return check_key(stripped) if stripped else ""
