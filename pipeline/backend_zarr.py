"""Zarr's view of a local folder, with this project's durability and its rule about names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zarr.storage import LocalStore

from pipeline.backend import check_key, check_prefix
from pipeline.errors import AlreadyExistsError

if TYPE_CHECKING:
    from pipeline.backend import LocalBackend


class DurableLocalStore(LocalStore):
    """zarr's LocalStore, except that writes are fsynced and keys cannot leave the folder.

    zarr renames a temporary file without any fsync, which survives a killed process but not a power loss.

    Parameters
    ----------
    backend : LocalBackend
        Does the writing and checks the keys.
    read_only : bool
        Refuse writes.
    """

    def __init__(self, backend: LocalBackend | str | Path, *, read_only: bool = False) -> None:
        from pipeline.backend import LocalBackend

        self.backend = backend if isinstance(backend, LocalBackend) else LocalBackend(backend)
        super().__init__(self.backend.root, read_only=read_only)

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
