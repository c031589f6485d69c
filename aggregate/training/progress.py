"""Events about a training, some a second."""

from __future__ import annotations

import time

from aggregate.training.course import Course
from aggregate.training.hooks import Hook, StepDone
from pipeline.events import OnEvent, Progress, StageStarted

PROGRESS_SECONDS = 0.5


class ProgressTeller(Hook):
    """Says that a training has begun, and how far it is.

    Parameters
    ----------
    course : Course
    videos_per_step : int
    text : str
        What is trained, on what.
    on_event : callable
    """

    def __init__(self, course: Course, videos_per_step: int, text: str, on_event: OnEvent) -> None:
        self._course, self._videos_per_step = course, videos_per_step
        self._text, self._on_event = text, on_event
        self._told_at, self._told_step = 0.0, 0

    def begin(self, first: int) -> None:
        """Announce the training."""
        resumed = f", resumed at step {first}" if first else ""
        self._on_event(StageStarted("train", self._course.total_steps, "steps", self._text + resumed))
        self._told_at, self._told_step = time.monotonic(), first

    def after(self, step: StepDone) -> None:
        """Tell loss, rate and speed, unless that was a moment ago."""
        now = time.monotonic()
        if now - self._told_at < PROGRESS_SECONDS and step.number != self._course.total_steps:
            return
        per_s = (step.number - self._told_step) * self._videos_per_step / max(now - self._told_at, 1e-9)
        values = {"loss": float(step.loss), "lr": step.rate, "videos_per_s": per_s}
        self._on_event(Progress("train", step.number, self._course.total_steps, values))
        self._told_at, self._told_step = now, step.number
