"""Bounds on memory: a budget for decoded frames, and an allocator that keeps what it freed."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

DEFAULT_MEMORY_BYTES = 2 << 30
"""Of decoded frames; at most an eighth of the machine's memory is taken."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 1 << 30


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


def keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system.

    Networks on a CPU allocate the same large activations for every batch;
    fetching fresh zeroed pages for them cost up to half of the processor time
    (MobileNetV2, 16 frames a batch: 12.6 ms a frame, of which 55 % in the
    kernel; 8.9 ms with blocks kept). Does nothing elsewhere.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
