"""A budget for decoded frames."""

from __future__ import annotations

import os
import threading

DEFAULT_MEMORY_BYTES = 2 << 30
"""Of decoded frames; at most an eighth of the machine's memory is taken."""


class ByteBudget:
    """Lets holders wait until there is room. A request larger than the budget waits until it is alone.

    Parameters
    ----------
    limit : int
        Bytes.
    max_holders : int
        Most requests that hold some at once: small videos must not be decoded, nor their shards claimed, far ahead.
    """

    def __init__(self, limit: int, max_holders: int) -> None:
        self.limit = limit
        self._max_holders = max_holders
        self._used = 0
        self._holders = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def acquire(self, num_bytes: int) -> None:
        """Wait for room and take it; returns at once when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_room(num_bytes))
            self._used += num_bytes
            self._holders += 1

    def _has_room(self, num_bytes: int) -> bool:
        if not self._holders:
            return True
        return self._holders < self._max_holders and self._used + num_bytes <= self.limit

    def release(self, num_bytes: int) -> None:
        """Give room back."""
        with self._changed:
            self._used -= num_bytes
            self._holders -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Let nobody wait any more: the run is being stopped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def frame_budget_bytes() -> int:
    """Return how many bytes of decoded frames may wait on this machine."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return DEFAULT_MEMORY_BYTES
    return max(min(DEFAULT_MEMORY_BYTES, total // 8), 64 << 20)
