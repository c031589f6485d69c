"""When a training is saved, and how it goes on from what was saved."""

from __future__ import annotations

import time
from collections.abc import Sequence

from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.course import Course
from aggregate.training.guard import Guard
from aggregate.training.hooks import Hook, Learning, StepDone
from pipeline.settings import CHECKPOINT_S


class Saving(Hook):
    """Saves learner and hooks after some epochs, and where an epoch takes long also in between.

    Parameters
    ----------
    folder : CheckpointFolder
    learner : Learning
    course : Course
    guard : Guard
        Looks at the weights first: broken ones are not saved.
    hooks : sequence of Hook
        Whose state is saved.
    writes : bool
        Of several processes that hold the same the first alone does.
    every_s : float
        Seconds after which an epoch that is not over is saved, too; 0 saves every step.
    """

    def __init__(
        self,
        folder: CheckpointFolder,
        learner: Learning,
        course: Course,
        guard: Guard,
        hooks: Sequence[Hook],
        *,
        writes: bool = True,
        every_s: float = CHECKPOINT_S,
    ) -> None:
        self._folder, self._learner, self._course = folder, learner, course
        self._guard, self._hooks, self._writes, self._every_s = guard, hooks, writes, every_s
        self._saved_at = 0.0

    def resume(self) -> int:
        """Put back what the newest checkpoint of the same course holds; return the steps done, 0 without one."""
        found = self._folder.load_latest()
        if found is None or found.state.get("total_steps") != self._course.total_steps:
            return 0
        self._learner.load_tensors(found.tensors)
        for hook in self._hooks:
            hook.load_state(found.state)
        return int(found.state["step"])

    def begin(self, first: int) -> None:
        """Count the seconds from now."""
        self._saved_at = time.monotonic()

    def after(self, step: StepDone) -> None:
        """Save if it is time, and the training is not over."""
        course, every = self._course, self._learner.spec.checkpoint_epochs
        ends_epoch = step.number % course.steps_per_epoch == 0
        is_due = ends_epoch and (course.epoch_of(step.number) + 1) % every == 0
        now = time.monotonic()
        if not (is_due or now - self._saved_at >= self._every_s) or step.number == course.total_steps:
            return
        self._guard.check_weights(step)
        if self._writes:
            state = {name: value for hook in self._hooks for name, value in hook.state().items()}
            self._folder.save(step.number, self._learner.tensors(), {**state, "total_steps": course.total_steps})
        self._saved_at = now
