"""Many small files at once: on an object store the answer to each takes longer than its bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from pipeline.storage.backend import StorageBackend

T = TypeVar("T")
U = TypeVar("U")

NUM_AT_ONCE = 32


def fetch_each(backend: StorageBackend, items: Iterable[T], action: Callable[[T], U]) -> Iterator[U]:
    """Yield what `action` makes of every item, in order.

    On an object store some are on their way at any time, never all: memory stays bounded. Local files are read one
    after another, which is faster there.

    Parameters
    ----------
    action : callable
        Reads from `backend`. What it raises is raised when its turn comes.
    """
    if backend.is_local:
        yield from map(action, items)
        return
    rest = iter(items)
    with ThreadPoolExecutor(NUM_AT_ONCE, thread_name_prefix="fetch") as pool:
        ahead = deque(pool.submit(action, item) for item in islice(rest, NUM_AT_ONCE))
        try:
            while ahead:
                done = ahead.popleft()
                ahead.extend(pool.submit(action, item) for item in islice(rest, 1))
                yield done.result()
        finally:
            for future in ahead:
                future.cancel()
