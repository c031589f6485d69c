"""A file in a bucket, with the client that the store uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar
from urllib.parse import unquote

from extract.places.hosts import Hosts
from pipeline.errors import NotFoundError, StorageError, UnsafeNameError, VideoError
from pipeline.status import VideoStatus
from pipeline.storage.backend import StorageBackend

T = TypeVar("T")
PIECE_BYTES = 8 << 20


def bucket_of(bucket: str) -> StorageBackend:
    """Return the client of a bucket: ``s3://name``."""
    return _bucket_of(bucket, os.getpid(), os.environ.get("AWS_ENDPOINT_URL"))


@lru_cache(maxsize=8)
def _bucket_of(bucket: str, pid: int, endpoint: str | None) -> StorageBackend:
    from pipeline.storage.backend_object import ObjectBackend

    return ObjectBackend(bucket)


class ObjectFile:
    """One object of a bucket; the same verbs, and the same errors, as a file at a web address."""

    def __init__(self, address: str, hosts: Hosts) -> None:
        hosts.check(address)
        scheme, _, rest = address.partition("://")
        bucket, _, key = rest.partition("/")  # a question mark is a letter like others here
        self._address = address
        self._bucket = bucket_of(f"{scheme}://{bucket}")
        self._key = unquote(key).lstrip("/")
        self._size: int | None = None

    def size(self) -> int:
        """Return the number of bytes."""
        if self._size is None:
            self._size = self._ask(lambda: self._bucket.size(self._key))
        return self._size

    def read_range(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end."""
        return self._ask(lambda: self._bucket.read_range(self._key, start, length)) if length > 0 else b""

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`."""
        total = self.size() if stop is None else stop
        for at in range(start, total, PIECE_BYTES):
            piece = self.read_range(at, min(PIECE_BYTES, total - at))
            if len(piece) != min(PIECE_BYTES, total - at):
                raise VideoError(f"cannot be fetched: {self._address} became shorter", VideoStatus.INTERRUPTED)
            yield piece

    def stop(self) -> None:
        """Do nothing: a piece is soon there."""

    def close(self) -> None:
        """Do nothing: the client is shared."""

    def _ask(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except UnsafeNameError:
            raise VideoError(f"cannot be fetched: no key that can be read: {self._address}") from None
        except NotFoundError:
            raise VideoError(f"missing: no object {self._address}", VideoStatus.MISSING) from None
        except StorageError as error:
            raise VideoError(f"cannot be fetched: {error}", VideoStatus.INTERRUPTED) from None
