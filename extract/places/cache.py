"""A folder of fetched files that stays below a size: what was used longest ago goes first.

Several processes may share it. A file that is in use is locked (shared) and therefore stays; room is made, and kept for
what is on its way, under the folder's lock. All locks are `flock`: the kernel frees those of the dead.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.errors import ResourceError, SetupError, VideoError
from pipeline.status import VideoStatus

try:
    import fcntl
except ImportError:  # Windows: one process may use the cache then
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial"
WAIT_FOR_ROOM_S = 120.0
_POLL_S = 0.05
_NUM_LOCKS = 256


class Lease:
    """A file that stays where it is until this is closed."""

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        self.path = path
        self._descriptor = descriptor

    def close(self) -> None:
        """Let the file go."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileCache:
    """Files by a key, in a folder that holds at most `max_bytes`.

    Parameters
    ----------
    folder : Path
        Made when it is needed.
    max_bytes : int
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes

    def find(self, name: str) -> Lease | None:
        """Return the file of that name, locked against being removed; None where it is not there."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        _lock(descriptor, "LOCK_SH")
        if not os.fstat(descriptor).st_nlink:  # removed between the two lines above
            os.close(descriptor)
            return None
        os.utime(path)  # the time of its last use
        return Lease(path, descriptor)

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Keep others, threads too, from fetching the same thing at the same time."""
        with self._locked(f".lock-{int(key[:8], 16) % _NUM_LOCKS:03d}"):
            yield

    def add(self, num_bytes: int, fill: Callable[[BinaryIO], str]) -> Lease:
        """Fetch a file.

        Parameters
        ----------
        num_bytes : int
            That it will have.
        fill : callable
            Writes the bytes, and returns the name to keep them under. What it raises goes through; nothing is kept.

        Raises
        ------
        VideoError
            `interrupted`, where the cache cannot hold it.
        """
        partial = self.folder / f"{uuid.uuid4().hex}{PARTIAL}"
        descriptor = self._reserve(partial, num_bytes)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as file:
                name = fill(file)
                if file.tell() != num_bytes:
                    raise VideoError(
                        f"cannot be fetched: {file.tell()} bytes came instead of {num_bytes}", VideoStatus.INTERRUPTED
                    )
                file.flush()
                os.fsync(descriptor)  # its name promises bytes, after a loss of power too
            with self._locked(".lock"):
                # The same bytes came meanwhile: who has them holds that file, and would lose its name with another's.
                if (held := self.find(name)) is not None:
                    partial.unlink()
                    os.close(descriptor)
                    return held
                os.replace(partial, self.folder / name)
                _lock(descriptor, "LOCK_SH")
        except BaseException as error:
            partial.unlink(missing_ok=True)
            os.close(descriptor)
            if isinstance(error, OSError):
                raise ResourceError(f"expected room in the cache {self.folder}, found: {error.strerror}") from None
            raise
        return Lease(self.folder / name, descriptor)

    def _reserve(self, partial: Path, num_bytes: int) -> int:
        """Make a file of that size, which counts from now on; the place is given back with it."""
        if num_bytes > self.max_bytes:
            raise VideoError(
                f"cannot be fetched: it has {num_bytes} bytes, the cache {self.folder} at most {self.max_bytes}; "
                "raise SCALE_CACHE_BYTES",
                VideoStatus.INTERRUPTED,
            )
        deadline = time.monotonic() + WAIT_FOR_ROOM_S
        while True:
            with self._locked(".lock"):
                if self._make_room(num_bytes):
                    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    _lock(descriptor, "LOCK_EX")
                    os.ftruncate(descriptor, num_bytes)
                    return descriptor
            if time.monotonic() > deadline:
                raise VideoError(
                    f"cannot be fetched: the cache {self.folder} is full of files in use; raise SCALE_CACHE_BYTES",
                    VideoStatus.INTERRUPTED,
                )
            time.sleep(_POLL_S)

    def _make_room(self, num_bytes: int) -> bool:
        held: list[tuple[float, int, str]] = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    stat = entry.stat(follow_symlinks=False)
                    held.append((0.0 if entry.name.endswith(PARTIAL) else stat.st_mtime, stat.st_size, entry.path))
        total = sum(size for _, size, _ in held) + num_bytes
        for _, size, path in sorted(held):  # what a killed process left half done first: nobody locks it
            if total <= self.max_bytes:
                break
            if _remove_unless_used(path):
                total -= size
        return total <= self.max_bytes

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SetupError(
                f"expected a cache folder that can be written, {self.folder}, found: {error.strerror}; set SCALE_CACHE"
            ) from None
        try:
            _lock(descriptor, "LOCK_EX")
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, *operations: str) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, sum(int(getattr(fcntl, one)) for one in operations))


def _remove_unless_used(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return not os.path.lexists(path)
    try:
        _lock(descriptor, "LOCK_EX", "LOCK_NB")
        os.unlink(path)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
