"""Memory: what is free, whether an error means that it is used up, and an allocator that keeps what it freed."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8
_KEEP_BYTES = 1 << 30
_TOP_BYTES = 64 << 20
"""As large as glibc's heaps of threads: with so much of it kept at the top, an empty one is not given back."""


def free_bytes(device: torch.device) -> int:
    """Return the memory of a device that nobody uses now."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def is_out_of_memory(err: BaseException) -> bool:
    """Whether an error of torch means that the device's (or the host's) memory is used up."""
    import torch

    if isinstance(err, torch.OutOfMemoryError):
        return True
    text = str(err).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text


def keep_freed_memory() -> None:
    """Ask glibc to reuse large freed blocks instead of returning them to the system.

    Networks on a CPU allocate the same large activations for every batch;
    fetching fresh zeroed pages for them cost up to half of the processor time
    (MobileNetV2, 16 frames a batch: 12.6 ms a frame, of which 55 % in the
    kernel; 8.9 ms with blocks kept). Does nothing elsewhere.

    To be called before the threads are started that it is for. Each of them would get a heap of its own otherwise,
    and such heaps are small: their blocks still come from the system and go back to it, thresholds or not. Two
    threads that took and freed blocks of 20 MiB had 31 thousand page faults with thresholds alone, 5 thousand with
    the top kept, 50 with one heap for all. Who sets MALLOC_ARENA_MAX or MALLOC_TOP_PAD_ is obeyed.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
    if "MALLOC_TOP_PAD_" not in os.environ:
        mallopt(_M_TOP_PAD, _TOP_BYTES)
    if "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
