"""How long a training is, in optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass

from aggregate.data.loader import num_batches
from pipeline.recipe import TrainSpec


@dataclass(frozen=True)
class Course:
    """The steps of a training.

    Attributes
    ----------
    accumulate : int
        Batches a step; at most those of an epoch.
    steps_per_epoch, total_steps : int
    """

    accumulate: int
    steps_per_epoch: int
    total_steps: int

    @classmethod
    def of(cls, spec: TrainSpec, num_videos: int) -> Course:
        """Return the course of a recipe's training over so many videos."""
        batches = num_batches(num_videos, spec.batch_size)
        accumulate = min(spec.accumulate, batches)
        return cls(accumulate, batches // accumulate, batches // accumulate * spec.epochs)

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 0, of the step that made `step` steps done."""
        return (step - 1) // self.steps_per_epoch
