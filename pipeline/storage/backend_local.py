"""A local folder as the place where the bytes of a store lie."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import (
    AlreadyExistsError,
    NotFoundError,
    PipelineError,
    SetupError,
    StorageError,
    UnsafeNameError,
    UnsafeStorageError,
)
from pipeline.storage.backend import PARTIAL_SUFFIX, BytesLike, Listing, Names, check_key, check_prefix
from pipeline.storage.memory import open_regular

MAX_REAL_FOLDERS = 4096


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
        self._root = str(self.root).rstrip(os.sep)
        """As text: paths are put together a thousand times a second, and pathlib takes ten times as long to."""
        self._real_folders: set[str] = set()
        """Folders that were found to be what their names say. To follow every part of every name takes longer than to
        map a shard; who puts a link in a folder's place meanwhile could do so between looking and opening, too."""

    @property
    def url(self) -> str:
        """Absolute path of the folder."""
        return str(self.root)

    def __repr__(self) -> str:
        return f"LocalBackend({self.url!r})"

    def _path(self, key: str) -> Path:
        return Path(self.local_name(key))

    def _folder(self, prefix: str) -> Path:
        prefix = check_prefix(prefix)
        return Path(self._inside(prefix)) if prefix else self.root

    def _inside(self, key: str) -> str:
        folder = f"{self._root}/{key[: key.rfind('/')]}" if "/" in key else self._root
        path = f"{self._root}/{key}"
        if folder in self._real_folders and not os.path.islink(path):
            return path
        real = os.path.realpath(path)
        if real == path:
            if len(self._real_folders) >= MAX_REAL_FOLDERS:
                self._real_folders.clear()
            self._real_folders.add(folder)
        elif not real.startswith(f"{self.root}{os.sep}"):
            raise UnsafeNameError(
                f"expected {key!r} inside the store {self.root}, found a symbolic link to {real}; "
                "move the data into the store, or open the folder that the link points to"
            )
        return path

    def read(self, key: str) -> bytes:
        """See :class:`StorageBackend`."""
        path = self.local_name(key)
        try:
            with open(open_regular(path), "rb") as file:
                return file.read()
        except OSError as err:
            raise reworded(err, f"read {key} in", self.url) from err

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            with open(open_regular(path), "rb") as file:
                file.seek(start, os.SEEK_END if start < 0 else os.SEEK_SET)
                return file.read(length)
        except OSError as err:
            raise reworded(err, f"read {key} in", self.url) from err

    def size(self, key: str) -> int:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            return path.stat().st_size
        except OSError as err:
            raise reworded(err, f"read {key} in", self.url) from err

    def exists(self, key: str) -> bool:
        """See :class:`StorageBackend`."""
        return self._path(key).is_file()

    def put(self, key: str, data: BytesLike) -> None:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            temporary = self._name_temporary(path)
            try:
                self.disk.write(temporary, data)
                self.disk.replace(temporary, path)
            except BaseException:  # an interrupt leaves no litter either
                self._discard(temporary)
                raise
            self._fsync_folder(path.parent)
        except OSError as err:
            raise reworded(err, f"write {key} in", self.url) from err

    def create(self, key: str, data: BytesLike) -> None:
        """See :class:`StorageBackend`. A hard link is the exclusive step: the name appears with all its bytes."""
        path = self._path(key)
        try:
            temporary = self._name_temporary(path)
            try:
                self.disk.write(temporary, data)
                self.disk.link(temporary, path)
            finally:
                self._discard(temporary)
            self._fsync_folder(path.parent)
        except FileExistsError as err:
            raise AlreadyExistsError(f"expected no {key} in {self.url}, found one; another writer was first") from err
        except OSError as err:
            if err.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS) and not isinstance(err, FileNotFoundError):
                raise UnsafeStorageError(
                    f"expected a file system with hard links under {self.url}, found {err.strerror}; "
                    "exclusive commits need them, so put the store on another file system"
                ) from err
            raise reworded(err, f"create {key} in", self.url) from err

    def delete(self, key: str) -> None:
        """See :class:`StorageBackend`."""
        path = self._path(key)
        try:
            self.disk.unlink(path)
            if path.parent.is_dir():
                self._fsync_folder(path.parent)
        except OSError as err:
            raise reworded(err, f"delete {key} in", self.url) from err

    def remove_link(self, key: str) -> None:
        """See :class:`StorageBackend`."""
        path = self.root / check_key(key)
        self._folder(key.rpartition("/")[0])  # only the last part may be a link
        try:
            if path.is_symlink():
                self.disk.unlink(path)
                self._fsync_folder(path.parent)
        except OSError as err:
            raise reworded(err, f"delete {key} in", self.url) from err

    def delete_all(self, keys: Sequence[str]) -> None:
        """See :class:`StorageBackend`. Each folder is fsynced once."""
        paths = [self._path(key) for key in keys]
        try:
            for path in paths:
                self.disk.unlink(path)
            for folder in {path.parent for path in paths}:
                if folder.is_dir():
                    self._fsync_folder(folder)
        except OSError as err:
            raise reworded(err, f"delete {keys[0]} and others in", self.url) from err

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
            raise reworded(err, f"list {prefix} in", self.url) from err

    def leftovers(self, prefix: str = "", *, recursive: bool = True) -> Listing:
        """See :class:`StorageBackend`."""
        return sorted((key, size) for key, size in self._walk(prefix, recursive) if key.endswith(PARTIAL_SUFFIX))

    def links(self, prefix: str = "") -> Names:
        """See :class:`StorageBackend`."""
        found = []
        for folder, folders, files in os.walk(self._folder(prefix)):  # does not follow links
            for name in (*folders, *files):
                path = Path(folder, name)
                if path.is_symlink() and not os.path.realpath(path).startswith(f"{self.root}{os.sep}"):
                    found.append(path.relative_to(self.root).as_posix())
        return sorted(found)

    def local_name(self, key: str) -> str:
        """See :class:`StorageBackend`."""
        return self._inside(check_key(key))

    def local_path(self, key: str) -> Path:
        """See :class:`StorageBackend`."""
        return self._path(key)

    def zarr_store(self, *, read_only: bool = True) -> Any:
        """See :class:`StorageBackend`."""
        from pipeline.storage.backend_zarr import DurableLocalStore

        return DurableLocalStore(self, read_only=read_only)

    def _walk(self, prefix: str, recursive: bool) -> Iterator[tuple[str, int]]:
        pending = [str(self._folder(prefix))]
        start = len(str(self.root).rstrip(os.sep)) + 1
        while pending:
            try:
                with os.scandir(pending.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            if recursive:
                                pending.append(entry.path)
                        elif entry.is_file():
                            yield entry.path[start:], entry.stat().st_size
            except (FileNotFoundError, NotADirectoryError):  # removed meanwhile, or never there
                continue
            except OSError as err:
                raise reworded(err, f"list {prefix} in", self.url) from err

    def _name_temporary(self, path: Path) -> Path:
        self._make_folders(path.parent)
        return path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")

    def _discard(self, temporary: Path) -> None:
        """Remove a temporary file; one that stays is only litter, and the commit it belongs to still counts."""
        with suppress(OSError):
            self.disk.unlink(temporary)

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


def reworded(err: OSError, what: str, url: str) -> PipelineError:
    """Turn an OSError into an error of this project."""
    if what.startswith(("write", "create")) and isinstance(
        err, IsADirectoryError | NotADirectoryError | FileExistsError
    ):
        return StorageError(
            f"expected to {what} {url}, found a folder where the file should be, or a file in place of its folder; "
            "move it away"
        )
    if isinstance(err, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return NotFoundError(f"expected to {what} {url}, found no such file")
    if err.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SetupError(f"expected to {what} {url}, found: {err.strerror}; change the permissions or the folder")
    hints = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space") | {
        errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
        errno.ENAMETOOLONG: "use shorter names, or a folder with a shorter path",
    }
    hint = hints.get(err.errno or 0, "try again")
    return StorageError(f"expected to {what} {url}, found: {err.strerror or err}; {hint}")
