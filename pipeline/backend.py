"""Where the bytes of a store lie: one small interface, and its implementation for a local folder.

Keys are relative paths with ``/``. Everything the store promises about crashes rests on two verbs:

* ``put`` replaces a key as a whole: readers see the old bytes or the new ones, never a mixture;
* ``create`` makes a key that did not exist, and of two racing calls exactly one succeeds.

Both are durable when they return: file and folder are fsynced (local), or the service has acknowledged (object store).
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import unquote, urlsplit

from pipeline.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    SetupError,
    StorageError,
    UnsafeNameError,
    UnsafeStorageError,
)

BytesLike: TypeAlias = bytes | bytearray | memoryview
Listing: TypeAlias = list[tuple[str, int]]  # (key, size in bytes); also keeps `list` the type inside the classes below
Names: TypeAlias = list[str]

PARTIAL_SUFFIX = ".partial"
"""Ending of temporary files. A killed process may leave some; no reader ever looks at them."""
OBJECT_SCHEMES = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss")


@runtime_checkable
class StorageBackend(Protocol):
    """What the store needs from the place where its bytes lie. Thread-safe; keys are relative, with ``/``."""

    @property
    def url(self) -> str:
        """Address that :func:`open_backend` opens again."""

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

    def list(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """Return (key, size in bytes) of every key in the folder `prefix`, sorted, without temporary files."""

    def folders(self, prefix: str = "") -> Names:
        """Return the sorted names of the folders directly in the folder `prefix`."""

    def leftovers(self, prefix: str = "") -> Listing:
        """Return (key, size in bytes) of temporary files that killed writers left."""

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
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or any(ord(c) < 32 or ord(c) == 127 for c in key):
        raise UnsafeNameError(
            f"expected a relative key inside the store, found {key!r}; use names without '..', '\\' and leading '/'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """Return the folder `prefix` without a trailing slash, checked like a key; ``""`` is the whole store."""
    stripped = prefix.rstrip("/") if prefix != "/" else prefix
    return check_key(stripped) if stripped else ""


class Disk:
    """The few system calls that a durable write is made of; tests replace it to fail at the n-th of them."""

    def write(self, path: Path, data: BytesLike) -> None:
        """Write a new file (it must not exist) and fsync it."""
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            self.fsync(file.fileno())

    def fsync(self, fd: int) -> None:
        """Make a file or folder durable."""
        os.fsync(fd)

    def replace(self, source: Path, target: Path) -> None:
        """Rename atomically over whatever stands at `target`."""
        os.replace(source, target)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name; FileExistsError when the name is taken."""
        os.link(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink(missing_ok=True)


class LocalBackend:
    """A folder.

    Parameters
    ----------
    root : Path
        The folder; created by the first write.
    disk : Disk, optional
        System calls to use.
    """

    is_local = True

    def __init__(self, root: str | Path, disk: Disk | None = None) -> None:
        self.root = Path(os.path.realpath(Path(root).expanduser()))
        self.disk = disk or Disk()

    @property
    def url(self) -> str:
        """Absolute path of the folder."""
        return str(self.root)

    def __repr__(self) -> str:
        return f"LocalBackend({self.url!r})"

    def _path(self, key: str) -> Path:
        return self._inside(self.root / check_key(key), key)

    def _folder(self, prefix: str) -> Path:
        prefix = check_prefix(prefix)
        return self._inside(self.root / prefix, prefix) if prefix else self.root

    def _inside(self, path: Path, key: str) -> Path:
        real = os.path.realpath(path)
        if real != str(path) and not real.startswith(f"{self.root}{os.sep}"):
            raise UnsafeNameError(
                f"expected {key!r} inside the store {self.root}, found a symbolic link to {real}; "
                "move the data into the store, or open the folder that the link points to"
            )
        return path

    def read(self, key: str) -> bytes:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            return path.read_bytes()
        except OSError as err:
            raise _reworded(err, f"read {key} in", self.url) from err

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
                return file.read(length)
        except OSError as err:
            raise _reworded(err, f"read {key} in", self.url) from err

    def size(self, key: str) -> int:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            return path.stat().st_size
        except OSError as err:
            raise _reworded(err, f"read {key} in", self.url) from err

    def exists(self, key: str) -> bool:
        """See :class:`StorageBackend`."""
        return self._path(key).is_file()

    def put(self, key: str, data: BytesLike) -> None:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            temporary = self._write_temporary(path, data)
            try:
                self.disk.replace(temporary, path)
            except OSError:
                self.disk.unlink(temporary)
                raise
            self._fsync_folder(path.parent)
        except OSError as err:
            raise _reworded(err, f"write {key} in", self.url) from err

    def create(self, key: str, data: BytesLike) -> None:
        """See :class:`StorageBackend`. A hard link is the exclusive step: the name appears with all its bytes."""
        path = self._path(key)
        try:
            temporary = self._write_temporary(path, data)
            try:
                self.disk.link(temporary, path)
            finally:
                self.disk.unlink(temporary)
            self._fsync_folder(path.parent)
        except FileExistsError as err:
            raise AlreadyExistsError(f"expected no {key} in {self.url}, found one; another writer was first") from err
        except OSError as err:
            if err.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) and not isinstance(err, FileNotFoundError):
                raise UnsafeStorageError(
                    f"expected a file system with hard links under {self.url}, found {err.strerror}; "
                    "exclusive commits need them, so put the store on another file system"
                ) from err
            raise _reworded(err, f"create {key} in", self.url) from err

    def delete(self, key: str) -> None:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            self.disk.unlink(path)
            if path.parent.is_dir():
                self._fsync_folder(path.parent)
        except OSError as err:
            raise _reworded(err, f"delete {key} in", self.url) from err

    def list(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """See :class:`StorageBackend`."""
        return sorted((key, size) for key, size in self._walk(prefix, recursive) if not key.endswith(PARTIAL_SUFFIX))

    def folders(self, prefix: str = "") -> Names:
        """See :class:`StorageBackend`."""
        folder = self._folder(prefix)
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as err:
            raise _reworded(err, f"list {prefix} in", self.url) from err

    def leftovers(self, prefix: str = "") -> Listing:
        """See :class:`StorageBackend`."""
        return sorted((key, size) for key, size in self._walk(prefix, recursive=True) if key.endswith(PARTIAL_SUFFIX))

    def local_path(self, key: str) -> Path:
        """See :class:`StorageBackend`."""
        return self._path(key)

    def zarr_store(self, *, read_only: bool = True) -> Any:
        """See :class:`StorageBackend`."""
        from pipeline.backend_zarr import DurableLocalStore

        return DurableLocalStore(self, read_only=read_only)

    def _walk(self, prefix: str, recursive: bool) -> Iterator[tuple[str, int]]:
        pending = [self._folder(prefix)]
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if recursive:
                                pending.append(Path(entry.path))
                        elif entry.is_file():
                            yield Path(entry.path).relative_to(self.root).as_posix(), entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
                continue
            except OSError as err:
                raise _reworded(err, f"list {prefix} in", self.url) from err

    def _write_temporary(self, path: Path, data: BytesLike) -> Path:
        self._make_folders(path.parent)
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
        try:
            self.disk.write(temporary, data)
        except OSError:
            self.disk.unlink(temporary)
            raise
        return temporary

    def _make_folders(self, folder: Path) -> None:
        missing = []
        while not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for new in reversed(missing):
            new.mkdir(exist_ok=True)
            self._fsync_folder(new.parent)  # or a power loss could take the folder with the file in it

    def _fsync_folder(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.disk.fsync(fd)
        finally:
            os.close(fd)


def _reworded(err: OSError, what: str, url: str) -> PipelineError:
    """Turn an OSError into an error of this project."""
    if isinstance(err, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return NotFoundError(f"expected to {what} {url}, found no such file")
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(f"expected to {what} {url}, found: {err.strerror}; change the permissions or the folder")
    hint = "free some space" if err.errno in (errno.ENOSPC, errno.EDQUOT) else "try again"
    return StorageError(f"expected to {what} {url}, found: {err.strerror or err}; {hint}")


def open_backend(url: str | Path | StorageBackend, *, writable: bool = False) -> StorageBackend:
    """Open the storage at an address; nothing is created and, for a folder, nothing is read.

    Parameters
    ----------
    url : str, Path or StorageBackend
        A folder, ``file://``, ``s3://bucket/path``, ``gs://bucket/path`` or ``az://container/path``.
        A backend is returned as it is.
    writable : bool
        An object store that will be written is probed first: two racing creates, of which exactly one may win.

    Raises
    ------
    InvalidInputError
        Unknown scheme, or no bucket in the address.
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
    if isinstance(url, Path) or "://" not in text:
        return LocalBackend(text)
    parts = urlsplit(text)
    if parts.scheme == "file":
        return LocalBackend(unquote(parts.path))
    if parts.scheme in OBJECT_SCHEMES:
        from pipeline.backend_object import ObjectBackend

        backend = ObjectBackend(text)
        if writable:
            backend.probe()
        return backend
    raise InvalidInputError(
        f"expected a folder or an address that starts with s3:// gs:// or az://, found {text!r}; "
        "mount other storage as a folder"
    )
