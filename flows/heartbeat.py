"""A line a minute for logs: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipeline.events import Progress, StageStarted

EVERY_S = 60.0
WATCHED_A_BEAT = 4
"""How often a beat looks whether it is due: it comes at most a quarter late."""


class Heartbeat:
    """Turns the progress of stages, thousands of events a second perhaps, into a line every so often.

    Parameters
    ----------
    every_s : float
        Seconds between two lines of a stage; the first comes after as long.
    clock : callable
        Monotonic seconds; replaced in tests.
    """

    def __init__(self, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._started_s = self._last_s = clock()
        self._unit = ""
        self._latest: Progress | None = None

    def start(self, event: StageStarted) -> None:
        """Begin a stage."""
        self._started_s = self._last_s = self._clock()
        self._unit = event.unit
        self._latest = None

    def line(self, event: Progress | None = None) -> str | None:
        """Return the line that is due, or None; without an event from the latest one, or that there was none yet."""
        now = self._clock()
        event = self._latest = event or self._latest
        if now - self._last_s < self._every_s:
            return None
        self._last_s = now
        if event is None:
            return f"at work for {duration(now - self._started_s)}"
        rate = event.done / max(now - self._started_s, 1e-9)
        left = f", {duration((event.total - event.done) / rate)} left" if rate > 0 and event.total else ""
        values = "".join(f", {name} {value:.4g}" for name, value in shown_values(event).items())
        return f"{event.done} of {event.total} {self._unit}, {speed(rate)}{left}{values}"


class Pulse:
    """Says a line every so often while a stage is at work, also where the stage itself says nothing for minutes.

    Use as a context manager: a thread watches the clock while it is open.

    Parameters
    ----------
    say : callable
        Takes the stage's name and the line; is called from the thread as well.
    every_s : float
    """

    def __init__(self, say: Callable[[str, str], None], every_s: float = EVERY_S) -> None:
        self._say, self._every_s = say, every_s
        self._heartbeat = Heartbeat(every_s)
        self._stage = ""
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()

    def start(self, event: StageStarted) -> None:
        """Begin a stage."""
        with self._lock:
            self._stage = event.stage
            self._heartbeat.start(event)

    def progress(self, event: Progress) -> None:
        """Take what is done."""
        self._beat(event)

    def finish(self) -> None:
        """End a stage: nothing is said until the next one begins."""
        with self._lock:
            self._stage = ""

    def _beat(self, event: Progress | None = None) -> None:
        with self._lock:
            line = self._heartbeat.line(event) if self._stage else None
            stage = self._stage
        if line:
            self._say(stage, line)

    def _watch(self) -> None:
        while not self._ended.wait(self._every_s / WATCHED_A_BEAT):
            self._beat()


def shown_values(event: Progress) -> dict[str, float]:
    """Return the figures of an event but for rates: one rate is shown, that of the units that are counted."""
    return {name: value for name, value in event.values.items() if not name.endswith("_per_s")}


def speed(rate: float) -> str:
    """Return units a second, a minute or an hour, whichever gives a number that reads well."""
    for seconds, name in ((1, "s"), (60, "min")):
        if rate * seconds >= 1:
            return f"{rate * seconds:.1f}/{name}"
    return f"{rate * 3600:.1f}/h"


def duration(seconds: float) -> str:
    """Return a time as people say it: ``40 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 120:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def without_stage(stage: str, text: str) -> str:
    """Return a text without the stage's name at its start, where the name stands before it anyway."""
    return text.removeprefix(f"{stage}: ")
