"""The figures of a training: a bounded history, and the sinks that show it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from aggregate.training.course import Course
from aggregate.training.guard import Guard
from aggregate.training.hooks import Hook, StepDone
from aggregate.training.metrics import MetricsSink, Record

MAX_RECORDS = 2000


class Recorder(Hook):
    """Keeps a record of some steps and of the last.

    Attributes
    ----------
    history : list of mapping
        step, epoch, loss, lr and each objective's figures.
    """

    def __init__(self, course: Course, guard: Guard, sinks: Sequence[MetricsSink]) -> None:
        self.history: list[Record] = []
        self._course, self._guard, self._sinks = course, guard, sinks
        self._every = max(1, course.total_steps // MAX_RECORDS)

    def begin(self, first: int) -> None:
        """Let the sinks show the history so far."""
        for sink in self._sinks:
            sink.restart(self.history)

    def after(self, step: StepDone) -> None:
        """Record the step if it is its turn."""
        if step.number % self._every and step.number != self._course.total_steps and not step.more:
            return
        names = list(step.logs)
        values = torch.stack([step.loss, *(step.logs[n].float() for n in names)]).tolist()
        if not math.isfinite(values[0]):
            raise self._guard.non_finite(step, values[0])
        # A figure without a value (accuracy of a batch without masked crops) is null: NaN is no JSON.
        figures = {n: (v if v == v else None) for n, v in zip(names, values[1:], strict=True)}
        epoch = self._course.epoch_of(step.number)
        record: Record = {
            "step": step.number,
            "epoch": epoch,
            "loss": values[0],
            "lr": step.rate,
            **figures,
            **step.more,
        }
        self.history.append(record)
        for sink in self._sinks:
            sink.write(record)

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    def state(self) -> Mapping[str, Any]:
        """Return the history."""
        return {"history": self.history}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the history of a checkpoint."""
        self.history = list(state["history"])
