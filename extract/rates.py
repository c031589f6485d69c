"""How fast each part of extraction was: decode, preprocess, forward, write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

PARTS = ("decode", "preprocess", "forward", "write")


@dataclass
class Rates:
    """Busy seconds and units of work of each part, summed over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    units: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, part: str, seconds: float, units: int) -> None:
        """Count work: frames decoded, crops preprocessed, crops forwarded, rows written."""
        with self._lock:
            self.seconds[part] += seconds
            self.units[part] += units

    @contextmanager
    def measure(self, part: str, units: int) -> Iterator[None]:
        """Time a block."""
        started = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - started, units)

    def per_second(self) -> dict[str, float]:
        """Return units a busy second of each part: frames, crops, crops and rows."""
        return {part: round(self.units[part] / s, 2) for part, s in self.seconds.items() if s > 0}

    def as_details(self) -> dict[str, dict[str, float]]:
        """Return the figures for a report."""
        return {
            "busy_seconds": {part: round(s, 3) for part, s in self.seconds.items()},
            "per_busy_second": self.per_second(),
        }
