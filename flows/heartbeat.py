"""A line a minute for logs: how much is done, how fast, and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipeline.events import Progress, StageStarted

EVERY_S = 60.0


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

    def start(self, event: StageStarted) -> None:
        """Begin a stage."""
        self._started_s = self._last_s = self._clock()
        self._unit = event.unit

    def line(self, event: Progress) -> str | None:
        """Return the line that is due, or None."""
        now = self._clock()
        if now - self._last_s < self._every_s:
            return None
        self._last_s = now
        rate = event.done / max(now - self._started_s, 1e-9)
        left = f", {duration((event.total - event.done) / rate)} left" if rate > 0 and event.total else ""
        values = "".join(f", {name} {value:.4g}" for name, value in shown_values(event).items())
        return f"{event.done} of {event.total} {self._unit}, {speed(rate)}{left}{values}"


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
