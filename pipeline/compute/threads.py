"""How many threads a computation takes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


def num_threads() -> int:
    """Return the threads of one numeric pool: `OMP_NUM_THREADS`, else the cores this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else num_cores()


def num_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def at_most_threads(count: int) -> Iterator[None]:
    """Give torch at most so many threads (one at least) inside the block, and its old number back afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, count)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compute_alone_on_a_core() -> None:
    """Let this thread of several that compute beside each other use one core, for good."""
    import torch

    torch.set_num_threads(1)
