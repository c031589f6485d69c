"""How the threads of a run tell each other and the caller: events, the first error, and that it is time to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from pipeline.events import Event, OnEvent

POLL_S = 0.05


class Signals:
    """Events and errors on their way to the caller's thread.

    Parameters
    ----------
    on_event : callable
        Called from the caller's thread only.
    events : queue, optional
        Where other threads may put events to be passed on.
    """

    def __init__(self, on_event: OnEvent, events: queue.SimpleQueue[Event] | None = None) -> None:
        self.stopping = threading.Event()
        self._on_event = on_event
        self._events = events if events is not None else queue.SimpleQueue()
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def tell(self, event: Event) -> None:
        """Leave an event for the caller; from any thread."""
        self._events.put(event)

    def guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; what goes wrong in it stops the run and is raised in the caller's thread."""
        try:
            loop()
        except BaseException as err:
            with self._lock:
                self._error = self._error or err
            self.stopping.set()

    def hand_over(self, channel: Any, item: Any) -> bool:
        """Put an item into a bounded channel; False where the run stops before there is room. From any thread."""
        while True:
            try:
                channel.put(item, timeout=POLL_S)
                return True
            except queue.Full:
                if self.stopping.is_set():
                    return False

    # ---- the caller's thread

    def put(self, channel: Any, item: Any) -> None:
        """Put an item into a bounded channel; passes events on and raises errors while it waits."""
        while True:
            self.attend()
            try:
                channel.put(item, timeout=POLL_S)
                return
            except queue.Full:
                continue

    def attend(self) -> None:
        """Pass events on; raise what went wrong in any thread."""
        self.pass_events_on()
        if self._error is not None:
            raise self._error

    def pass_events_on(self) -> None:
        """Give waiting events to the caller."""
        while not self._events.empty():
            self._on_event(self._events.get())
