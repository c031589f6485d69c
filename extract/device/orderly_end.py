"""The end of a run, whatever is pressed: no thread may be inside torch when the interpreter ends.

Python takes a daemon thread off the stage by unwinding it the next time it
asks for the interpreter. Out of the middle of torch that is out of C++ which
allows no unwinding: ``terminate called without an active exception``, and the
process aborts. So threads are ended before Python ends, and an interrupt does
not keep their ending from being finished.
"""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

_POLL_S = 0.05
EXIT_LIMIT_S = 120.0
"""How long the interpreter's end waits for a batch that is being computed."""


class Stoppable(Protocol):
    """What is stopped before the interpreter ends."""

    def stop(self, limit_s: float | None = None) -> None:
        """End all threads; safe to call again, and from any thread."""


_running: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for running in list(_running):
        running.stop(EXIT_LIMIT_S)


def stop_before_exit(running: Stoppable) -> None:
    """Have `running` stopped before the interpreter ends, should it still run then."""
    _running.add(running)


def finish(work: Callable[[], None]) -> None:
    """Call `work` until it has run to its end, and only then pass on the interrupts that came meanwhile.

    Parameters
    ----------
    work : callable
        Goes on where it was when it is called again.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            work()
            break
        except KeyboardInterrupt as again:
            interrupt = again
    if interrupt is not None:
        raise interrupt


class ThreadGroup:
    """Threads that work off one channel; ``None`` in it ends one of them.

    Each is known by the event that it sets at its end, not by the thread
    itself: an interrupt in the middle of `Thread.join` makes Python 3.11
    believe that a running thread has ended.

    Parameters
    ----------
    loop : callable
        What a thread does, until it takes ``None`` from the channel; must not raise.
    channel : queue
        Bounded or not.
    name : str
    count : int
    """

    def __init__(self, loop: Callable[[], None], channel: Any, name: str, count: int) -> None:
        self.channel = channel
        self.ended = [threading.Event() for _ in range(count)]
        self._threads = [
            threading.Thread(target=_run, args=(loop, ended), name=f"{name}-{k}", daemon=True)
            for k, ended in enumerate(self.ended)
        ]

    def start(self) -> None:
        """Start all of them."""
        for thread in self._threads:
            thread.start()

    def end(self, limit_s: float | None = None) -> None:
        """Send every thread its signal to end and wait until it has; one that died takes nothing any more."""
        alive = [
            ended
            for thread, ended in zip(self._threads, self.ended, strict=True)
            if thread.ident is not None and not ended.is_set()
        ]
        for ended in alive:
            while not ended.is_set():
                try:
                    self.channel.put(None, timeout=_POLL_S)
                    break
                except queue.Full:
                    continue
        for ended in alive:
            ended.wait(limit_s)


def _run(loop: Callable[[], None], ended: threading.Event) -> None:
    try:
        loop()
    finally:
        ended.set()
