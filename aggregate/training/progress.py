"""Events about a training, some a second."""

from __future__ import annotations

import time

from aggregate.training.course import Course
from aggregate.training.hooks import Hook, StepDone
from pipeline.events import OnEvent, Progress, StageStarted
from pipeline.settings import PROGRESS_S


class ProgressTeller(Hook):
    """Says that a training has begun, and how far it is.

    Parameters
    ----------
    stage : str
    items : str
        What it learns from: videos, or clips.
    course : Course
    text : str
        What is trained, on what.
    on_event : callable
    every_s : float
        Seconds between two words about the progress; 0 tells every step.
    """

    def __init__(
        self, stage: str, items: str, course: Course, text: str, on_event: OnEvent, *, every_s: float = PROGRESS_S
    ) -> None:
        self._stage, self._items, self._course = stage, items, course
        self._text, self._on_event, self._every_s = text, on_event, every_s
        self._told_at, self._num_items = 0.0, 0

    def begin(self, first: int) -> None:
        """Announce the training."""
        resumed = f", resumed at step {first}" if first else ""
        self._on_event(StageStarted(self._stage, self._course.total_steps, "steps", self._text + resumed))
        self._told_at = time.monotonic()

    def after(self, step: StepDone) -> None:
        """Tell loss, rate and speed, unless that was a moment ago."""
        self._num_items += step.num_items
        now = time.monotonic()
        if now - self._told_at < self._every_s and step.number != self._course.total_steps:
            return
        per_s = self._num_items / max(now - self._told_at, 1e-9)
        values = {"loss": float(step.loss), "lr": step.rate, f"{self._items}_per_s": per_s}
        self._on_event(Progress(self._stage, step.number, self._course.total_steps, values))
        self._told_at, self._num_items = now, 0
