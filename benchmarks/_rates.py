"""Rates by the clock and by the processor's, and what several rounds of them say."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple


class Rate(NamedTuple):
    """Crops a second, and a second of a processor's time."""

    by_clock: float
    by_processor: float


class Stopwatch:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._started = time.perf_counter(), processor_s()

    def rate(self, count: float) -> Rate:
        """Return what so many make until now."""
        return Rate(count / (time.perf_counter() - self._started[0]), count / (processor_s() - self._started[1]))


def processor_s() -> float:
    """Return the processor seconds of this process and of those it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def median_of(rates: Sequence[Rate]) -> Rate:
    """Return the middle of several rounds."""
    return Rate(*(statistics.median(values) for values in zip(*rates, strict=True)))


def ratio_of(rates: Sequence[Rate], to: Sequence[Rate]) -> Rate:
    """Return the middle of the ratios of each round: a machine is slower and faster by turns, as a whole."""
    return median_of([Rate(*(a / b for a, b in zip(*pair, strict=True))) for pair in zip(rates, to, strict=True)])
