"""Refusing to go on where a training is broken: a loss or weights that are not finite, or nothing to score at all."""

from __future__ import annotations

import torch
from torch import Tensor

from aggregate.training.course import Course
from aggregate.training.hooks import Hook, Learning, StepDone
from pipeline.errors import TrainingError

SCORED_WITHIN_STEPS = 50
"""In so many steps, and one epoch, something must have been scored."""
GPU_CHECK_STEPS = 20
"""Steps between two looks at the loss on a GPU: each look waits for the device."""


class Guard(Hook):
    """Looks at every loss (on a GPU at some), at the sum of the first ones, and at the weights that are to be kept."""

    def __init__(self, learner: Learning, course: Course) -> None:
        self._learner, self._course = learner, course
        self._scored_by = min(course.total_steps, max(course.steps_per_epoch, SCORED_WITHIN_STEPS))
        self._scored = torch.zeros((), device=learner.device)
        self._unchecked = 0
        self._first = 0

    def begin(self, first: int) -> None:
        """Take note where the training begins: what was resumed has scored before."""
        self._first = first

    def after(self, step: StepDone) -> None:
        """Look at the loss.

        Raises
        ------
        TrainingError
            If it is not finite, or all of them were zero so far.
        """
        self._scored += step.loss.abs()
        if step.number == self._scored_by:
            self._check_scored()
        self._unchecked += 1
        is_last = step.number == self._course.total_steps
        if self._learner.device.type != "cuda" or self._unchecked >= GPU_CHECK_STEPS or is_last:
            if not bool(torch.isfinite(step.loss)):
                raise self.non_finite(step, float(step.loss))
            self._unchecked = 0

    def end(self, last: StepDone) -> None:
        """Look at the weights."""
        self.check_weights(last)

    def check_weights(self, step: StepDone) -> None:
        """Refuse to keep weights that a gradient has broken, or (on a GPU, where the look is due later) a loss.

        Raises
        ------
        TrainingError
            If one of them is not finite.
        """
        finite = torch.stack([torch.isfinite(p).all() for p in self._learner.parameters()]).all()
        if not bool(finite & torch.isfinite(step.loss)):
            raise self.non_finite(step, float(step.loss), {})

    def non_finite(self, step: StepDone, loss: float, logs: dict[str, Tensor] | None = None) -> TrainingError:
        """Return the error that says at which step a training broke, and why."""
        cause = self._learner.explain(step, step.logs if logs is None else logs)
        return TrainingError(
            f"expected a finite loss and finite weights, found loss {loss} at step {step.number} of "
            f"{self._course.total_steps} (epoch {self._course.epoch_of(step.number)}): {cause}"
        )

    def _check_scored(self) -> None:
        """Refuse to go on where no loss was anything but zero: such a model is an untrained one."""
        if self._first == 0 and float(self._scored) == 0.0:
            raise TrainingError(
                f"expected something to score, found a loss of zero in all of the first {self._scored_by} steps of "
                f"objective {self._learner.spec.objective.kind}: set contrast needs videos with at least two valid "
                "crops, masked crops a mask_ratio above 0"
            )
