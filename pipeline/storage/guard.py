"""A store belongs to the process that opened it."""

from __future__ import annotations

import os

from pipeline.errors import ForkError


class ForkGuard:
    """Remembers the process; the copy that a fork made of it refuses to work.

    Threads, locks, mappings and object-store clients do not survive a fork in a usable state; what follows is a
    deadlock or a crash far away from its cause (zarrs#171, tensorstore#61, h5py, obstore).
    """

    __slots__ = ("_pid",)

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[type[ForkGuard], tuple[()]]:
        return ForkGuard, ()  # what arrives in another process by pickle was opened there

    def check(self) -> None:
        """Raise :class:`ForkError` in a forked child."""
        if os.getpid() != self._pid:
            raise ForkError(
                f"expected the store to be used by process {self._pid} that opened it, found the forked child "
                f"{os.getpid()}; start workers with multiprocessing's 'spawn' method and open the store in each"
            )
