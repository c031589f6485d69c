"""A key of the store as a file that is read in pieces: what is not asked for is not fetched."""

from __future__ import annotations

import io
from abc import abstractmethod

from pipeline.storage.backend import StorageBackend

TAIL_BYTES = 1 << 18
"""Fetched at once with the end of the file, where Parquet keeps its footer."""


class SizedFile(io.RawIOBase):
    """A file of a known size that is read here and there; who inherits says how bytes come.

    Parameters
    ----------
    size : int
        Bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

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
        """Set the position; ValueError before the beginning."""
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"expected a place in a file of {self._size} bytes, found {at}")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes from the position on."""
        length = max(0, min(size if size >= 0 else self._size, self._size - self._at))
        data = self._bytes(self._at, length) if length else b""
        self._at += length
        return data

    @abstractmethod
    def _bytes(self, start: int, length: int) -> bytes:
        """Return bytes that are there, at least one."""


class RangeFile(SizedFile):
    """Random access for reading; one request a read, none for what lies in the tail or in a piece that is held.

    Raises
    ------
    NotFoundError
        If there is no such key.
    """

    def __init__(self, backend: StorageBackend, key: str) -> None:
        super().__init__(backend.size(key))
        self._backend = backend
        self._key = key
        self._tail_start = max(0, self._size - TAIL_BYTES)
        self._tail: bytes | None = None
        self._held, self._held_start = b"", 0

    def hold(self, start: int, stop: int) -> None:
        """Fetch a piece at once, in the place of the one before: what is read of it next costs no request."""
        start, stop = max(start, 0), min(stop, self._tail_start)
        if start < stop:
            self._held, self._held_start = self._backend.read_range(self._key, start, stop - start), start

    def _bytes(self, start: int, length: int) -> bytes:
        at = start - self._held_start
        if at >= 0 and at + length <= len(self._held):
            return self._held[at : at + length]
        if start < self._tail_start:
            return self._backend.read_range(self._key, start, length)
        if self._tail is None:
            self._tail = self._backend.read_range(self._key, self._tail_start, self._size - self._tail_start)
        return self._tail[start - self._tail_start : start - self._tail_start + length]
