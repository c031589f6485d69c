"""How fast each part of extraction was: decode, preprocess, forward, write."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PARTS = ("decode", "preprocess", "forward", "write")


@dataclass
class Rates:
    """Busy seconds and units of work of each part, summed over threads."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    units: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _on_device: deque[tuple[str, int, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=deque, repr=False)

    def add(self, part: str, seconds: float, units: int) -> None:
        """Count work: frames decoded, crops preprocessed, crops forwarded, rows written."""
        with self._lock:
            self.seconds[part] += seconds
            self.units[part] += units

    @contextmanager
    def measure(self, part: str, units: int, device: torch.device | None = None) -> Iterator[None]:
        """Time a block.

        Parameters
        ----------
        part : str
        units : int
        device : torch.device, optional
            Where its work is done. A GPU works after the block has long been left: its own clock is read then.
        """
        if device is not None and device.type == "cuda":
            import torch

            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)
            start.record(stream)
            yield
            end.record(stream)
            self._on_device.append((part, units, start, end))
            self.collect(wait=False)
            return
        started = time.perf_counter()
        yield
        self.add(part, time.perf_counter() - started, units)

    def collect(self, *, wait: bool = True) -> None:
        """Count what a GPU has finished; with `wait`, everything that was given to it."""
        while self._on_device:
            try:
                part, units, start, end = self._on_device.popleft()
            except IndexError:  # another thread took the last
                return
            if wait:
                end.synchronize()
            elif not end.query():
                self._on_device.appendleft((part, units, start, end))
                return
            self.add(part, start.elapsed_time(end) / 1000, units)

    def per_second(self) -> dict[str, float]:
        """Return units a busy second of each part: frames, crops, crops and rows."""
        return {part: round(self.units[part] / s, 2) for part, s in self.seconds.items() if s > 0}

    def as_details(self) -> dict[str, dict[str, float]]:
        """Return the figures for a report."""
        self.collect()
        return {
            "busy_seconds": {part: round(s, 3) for part, s in self.seconds.items()},
            "per_busy_second": self.per_second(),
        }
