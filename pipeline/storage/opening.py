"""From an address to the storage behind it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.errors import InvalidInputError
from pipeline.roots import check_allowed, split_roots
from pipeline.storage.backend import StorageBackend
from pipeline.storage.backend_local import LocalBackend

OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


def open_backend(url: str | Path | StorageBackend, *, writable: bool = False) -> StorageBackend:
    """Open the storage at an address; nothing is created and, for a folder, nothing is read.

    Parameters
    ----------
    url : str, Path or StorageBackend
        A folder, ``file://``, ``s3://bucket/path``, ``gs://bucket/path``, ``az://container/path``, or (read-only, from
        `scale serve`) ``http://host:port/store``.
        A backend is returned as it is.
    writable : bool
        An object store that will be written is probed first: two racing creates, of which exactly one may win.

    Raises
    ------
    InvalidInputError
        Unknown scheme, no bucket in the address, or a place outside of `SCALE_ROOTS`, where that is set.
    CredentialsError, StoreNotFoundError, StorageError
        Object stores: no or wrong credentials, no such bucket, no answer.
    UnsafeStorageError
        The object store ignores conditional puts, so commits could be lost.
    """
    if not isinstance(url, str | Path):
        return url
    text = str(url)
    if not text:
        raise InvalidInputError("expected the address of a store (a folder or s3:// gs:// az://), found an empty text")
    check_allowed(text, split_roots(os.environ.get("SCALE_ROOTS")), what="store")
    if isinstance(url, Path) or "://" not in text:
        return LocalBackend(text)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return LocalBackend(unquote(parts.path))
    if parts.scheme in ("http", "https"):
        from pipeline.storage.backend_http import HttpBackend

        return HttpBackend(text)
    if parts.scheme in OBJECT_SCHEMES:
        from pipeline.storage.backend_object import ObjectBackend

        backend = ObjectBackend(text)
        if writable:
            backend.probe()
        return backend
    raise InvalidInputError(
        f"expected a folder or an address that starts with s3:// gs:// az:// or http://, found {text!r}; "
        "mount other storage as a folder"
    )
