"""Temporary files that killed writers left: the next writer removes them once nobody can be writing them any more."""

from __future__ import annotations

import time
from contextlib import suppress

from pipeline.storage.backend import StorageBackend

DEAD_AFTER_S = 3600.0
"""A temporary file that nothing was written to for this long is nobody's: the largest is one shard, written at once."""


def sweep(backend: StorageBackend, *folders: str, recursive: bool = True) -> int:
    """Remove old temporary files in some folders; return how many."""
    removed = 0
    for folder in folders:
        for key, _ in backend.leftovers(folder, recursive=recursive):
            path = backend.local_path(key)
            with suppress(OSError):  # its writer renamed it meanwhile
                if path is not None and time.time() - path.stat().st_mtime > DEAD_AFTER_S:
                    backend.delete(key)
                    removed += 1
    return removed
