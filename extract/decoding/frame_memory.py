"""Memory that two processes share, used again and again.

Fresh pages are the dearest part of handing a video over (45 ms for 60 MB in a
virtual machine, against 3 ms for pages that are there already), so a buffer
goes back to the pool when the last array on it is gone.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import weakref
from collections import deque

import numpy as np

_SMALLEST_BYTES = 1 << 20
_QUANTUM_BYTES = 16 << 20
_MAX_SLACK = 4
"""A buffer at most so many times too large is used for a smaller video."""


def create_memory_file(num_bytes: int) -> int:
    """Return the descriptor of an unnamed file of this size that lives in memory where the system can."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("scale-frames", os.MFD_CLOEXEC)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, num_bytes)
    return descriptor


class SharedBuffer:
    """A piece of memory that a worker process can map too. It has no name and is gone with its last user."""

    def __init__(self, number: int, num_bytes: int) -> None:
        self.number = number
        self.num_bytes = num_bytes
        self.descriptor = create_memory_file(num_bytes)
        weakref.finalize(self, os.close, self.descriptor)
        self.memory = mmap.mmap(self.descriptor, num_bytes)
        self.address = np.frombuffer(self.memory, np.uint8).ctypes.data


class _Lease:
    """What arrays on a buffer hold on to; NumPy keeps it as the base of every view."""

    def __init__(self, buffer: SharedBuffer, shape: tuple[int, ...]) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "data": (buffer.address, False),
            "shape": shape,
            "typestr": "|u1",
        }


class FrameMemory:
    """The buffers of one pool. Safe to use from many threads.

    Parameters
    ----------
    max_idle_bytes : int
        Buffers that nobody uses are kept up to this sum.
    """

    def __init__(self, max_idle_bytes: int) -> None:
        self._max_idle_bytes = max_idle_bytes
        self._idle: list[SharedBuffer] = []
        self._returned: deque[SharedBuffer] = deque()
        self._lock = threading.Lock()
        self._num_made = 0
        self._is_closed = False

    def take(self, num_bytes: int) -> SharedBuffer:
        """Return a buffer of at least this size."""
        with self._lock:
            self._collect()
            fits = [b for b in self._idle if num_bytes <= b.num_bytes <= max(_MAX_SLACK * num_bytes, _QUANTUM_BYTES)]
            if fits:
                best = min(fits, key=lambda buffer: buffer.num_bytes)
                self._idle.remove(best)
                return best
            self._num_made += 1
            return SharedBuffer(self._num_made, _rounded(num_bytes))

    def lend(self, buffer: SharedBuffer, shape: tuple[int, ...]) -> np.ndarray:
        """Return a uint8 array on the buffer; when it and all its views are gone, the buffer is free again."""
        lease = _Lease(buffer, shape)
        weakref.finalize(lease, self.give_back, buffer)
        return np.asarray(lease)

    def give_back(self, buffer: SharedBuffer) -> None:
        """Say that nobody uses a buffer any more."""
        # takes no lock: the garbage collector may call this in a thread that holds it
        if not self._is_closed:
            self._returned.append(buffer)

    def close(self) -> None:
        """Keep nothing; arrays that are still alive stay valid."""
        self._is_closed = True
        with self._lock:
            self._idle.clear()
            self._returned.clear()

    def _collect(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
        while self._idle and sum(buffer.num_bytes for buffer in self._idle) > self._max_idle_bytes:
            self._idle.pop(0)


class BufferOrder:
    """Which buffers a worker has mapped. Parent and worker each keep one and so agree without a word.

    Parameters
    ----------
    max_bytes : int
        Sum of the sizes at most; one buffer may be larger.
    """

    MAX_BUFFERS = 8

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._sizes: dict[int, int] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._sizes

    def use(self, number: int, num_bytes: int) -> list[int]:
        """Note that a buffer is used now; return those that are dropped for it, the longest unused first."""
        self._sizes.pop(number, None)
        dropped = []
        while self._sizes and (
            len(self._sizes) >= self.MAX_BUFFERS or sum(self._sizes.values()) + num_bytes > self._max_bytes
        ):
            oldest = next(iter(self._sizes))
            del self._sizes[oldest]
            dropped.append(oldest)
        self._sizes[number] = num_bytes
        return dropped

    def forget(self, number: int) -> None:
        """Note that a buffer could not be mapped."""
        self._sizes.pop(number, None)


class MappedBuffers:
    """The worker's side: the last few buffers that its parent gave it, by number."""

    def __init__(self, max_bytes: int) -> None:
        self._order = BufferOrder(max_bytes)
        self._memories: dict[int, mmap.mmap] = {}

    def map(self, number: int, num_bytes: int, descriptor: int | None) -> np.ndarray:
        """Return the bytes of a buffer as a uint8 vector; `descriptor` comes with those not mapped yet."""
        for dropped in self._order.use(number, num_bytes):
            del self._memories[dropped]
        if descriptor is not None:
            try:
                self._memories[number] = mmap.mmap(descriptor, num_bytes)
            except OSError:
                self._order.forget(number)
                raise MemoryError from None
            finally:
                os.close(descriptor)
        return np.frombuffer(self._memories[number], np.uint8)


def _rounded(num_bytes: int) -> int:
    if num_bytes >= _QUANTUM_BYTES:
        return -(-num_bytes // _QUANTUM_BYTES) * _QUANTUM_BYTES
    return max(1 << (num_bytes - 1).bit_length(), _SMALLEST_BYTES)
