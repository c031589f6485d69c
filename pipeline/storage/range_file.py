"""A key of the store as a file that is read in pieces: what is not asked for is not fetched."""

from __future__ import annotations

import io

from pipeline.storage.backend import StorageBackend

TAIL_BYTES = 1 << 18
"""Fetched at once with the end of the file, where Parquet keeps its footer."""


class RangeFile(io.RawIOBase):
    """Random access for reading; one request a read, none for what lies in the tail that was fetched first.

    Raises
    ------
    NotFoundError
        If there is no such key.
    """

    def __init__(self, backend: StorageBackend, key: str) -> None:
        super().__init__()
        self._backend = backend
        self._key = key
        self._size = backend.size(key)
        self._at = 0
        self._tail_start = max(0, self._size - TAIL_BYTES)
        self._tail: bytes | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on."""
        stop = self._size if size < 0 else min(self._at + size, self._size)
        start, self._at = self._at, max(stop, self._at)
        if stop <= start:
            return b""
        if start < self._tail_start:
            return self._backend.read_range(self._key, start, stop - start)
        if self._tail is None:
            self._tail = self._backend.read_range(self._key, self._tail_start, self._size - self._tail_start)
        return self._tail[start - self._tail_start : stop - self._tail_start]
