"""Short mutual exclusion between processes around one commit.

Local stores use `flock` on the folder itself: nothing is left behind, and the kernel frees it when its holder dies.
Object stores have no locks; there an exclusive, numbered, expiring claim serves, see :mod:`pipeline.storage.claims`.

Why the exclusive creation of the ledger entry is not enough there: it decides who commits, but the shard that the entry
describes lies under a key that Zarr fixes (``values/c.3.0.0``) and is replaced before. Without the lock a second writer
could put its shard between the first one's shard and entry; the entry would then vouch for bytes that are gone. Nobody
would read wrong values (checksums), but rows would be lost until the next run. A lease leaves that window open to a
writer that is stopped for longer than the lease. Closing it takes a put on the condition that the shard is still the
one that was read (``If-Match``), which S3 has had since late 2024 and many compatible services have not.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import ClaimedError
from pipeline.storage.backend import StorageBackend

try:
    import fcntl
except ImportError:  # Windows: exclusive creation still arbitrates, as on object stores
    fcntl = None  # type: ignore[assignment]

LOCK_TTL_S = 60.0
LOCK_TIMEOUT_S = 120.0


@contextmanager
def exclusive(backend: StorageBackend, folder: str) -> Iterator[None]:
    """Hold the lock of a folder of the store.

    Parameters
    ----------
    folder : str
        Its key; a local one is created when missing.

    Raises
    ------
    ClaimedError
        If an object store's lock is not free within two minutes.
    """
    path = backend.local_path(folder)
    if path is None or fcntl is None:
        from pipeline.storage.claims import Claims

        claim = Claims(backend, f"{folder}/_lock").wait("lock", ttl_s=LOCK_TTL_S, timeout_s=LOCK_TIMEOUT_S)
        if claim is None:
            raise ClaimedError(
                f"expected the lock of {folder} within {LOCK_TIMEOUT_S:.0f} s, found it held; is another run stuck?"
            )
        with claim:
            yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as err:
        from pipeline.storage.backend_local import reworded

        raise reworded(err, f"write into {folder} in", backend.url) from err
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
