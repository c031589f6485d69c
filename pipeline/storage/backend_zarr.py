"""Zarr's view of a store's keys, with this project's durability, errors and rule about names."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from obstore.exceptions import BaseError
from zarr.storage import LocalStore, ObjectStore

from pipeline.errors import AlreadyExistsError, PipelineError
from pipeline.storage.backend import StorageBackend, check_key, check_prefix

T = TypeVar("T")


class LocalFiles(StorageBackend, Protocol):
    """A backend whose keys are files below one folder."""

    root: Path


class DurableLocalStore(LocalStore):
    """zarr's LocalStore, except that writes are fsynced and keys cannot leave the folder.

    zarr renames a temporary file without any fsync, which survives a killed process but not a power loss.

    Parameters
    ----------
    backend : LocalFiles
        Does the writing and checks the keys.
    read_only : bool
        Refuse writes.
    """

    def __init__(self, backend: LocalFiles, *, read_only: bool = False) -> None:
        self.backend = backend
        super().__init__(backend.root, read_only=read_only)

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store with the other mode."""
        return type(self)(self.backend, read_only=read_only)

    def _checked(self, key: str) -> str:
        self.backend.local_path(check_key(key))
        return key

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Return the bytes of a key, or None."""
        return await super().get(self._checked(key), prototype, byte_range)

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return byte ranges of several keys."""
        return await super().get_partial_values(prototype, [(self._checked(key), r) for key, r in key_ranges])

    async def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        return await super().exists(self._checked(key))

    async def set(self, key: str, value: Any) -> None:
        """Write a key durably."""
        self._check_writable()
        await asyncio.to_thread(self.backend.put, key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write a key durably unless it is there."""
        self._check_writable()
        try:
            await asyncio.to_thread(self.backend.create, key, value.as_buffer_like())
        except AlreadyExistsError:
            return

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await super().delete(self._checked(key))

    async def delete_dir(self, prefix: str) -> None:
        """Remove a folder of the store."""
        await super().delete_dir(check_prefix(prefix))


class CheckedObjectStore(ObjectStore[Any]):
    """zarr's ObjectStore, except that keys are checked and its client's errors become this project's.

    Parameters
    ----------
    store : obstore store
        The client.
    reworded : callable
        ``(error, verb, key) -> PipelineError``.
    read_only : bool
        Refuse writes.
    """

    def __init__(
        self, store: Any, reworded: Callable[[Exception, str, str], PipelineError], *, read_only: bool
    ) -> None:
        super().__init__(store, read_only=read_only)
        self._reworded = reworded

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store with the other mode."""
        return type(self)(self.store, self._reworded, read_only=read_only)

    async def _awaited(self, what: str, key: str, action: Awaitable[T]) -> T:
        try:
            return await action
        except BaseError as err:
            raise self._reworded(err, what, key) from err

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """Return the bytes of a key, or None."""
        return await self._awaited("read", key, super().get(check_key(key), prototype, byte_range))

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        """Return byte ranges of several keys."""
        checked = [(check_key(key), byte_range) for key, byte_range in key_ranges]
        return await self._awaited("read", "several objects", super().get_partial_values(prototype, checked))

    async def exists(self, key: str) -> bool:
        """Return whether the key exists."""
        return await self._awaited("read", key, super().exists(check_key(key)))

    async def set(self, key: str, value: Any) -> None:
        """Write a key."""
        await self._awaited("write", key, super().set(check_key(key), value))

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write a key unless it is there."""
        await self._awaited("create", key, super().set_if_not_exists(check_key(key), value))

    async def delete(self, key: str) -> None:
        """Remove a key."""
        await self._awaited("delete", key, super().delete(check_key(key)))
