"""The training loop: batches, steps, and their hooks; the same to the last digit when resumed on a CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from aggregate.data.loader import BatchSource
from aggregate.data.sets import Splitter
from aggregate.network.model import ScaleModel
from aggregate.objectives import Objective
from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.course import Course
from aggregate.training.guard import Guard
from aggregate.training.hooks import Hook
from aggregate.training.learner import Learner
from aggregate.training.metrics import MetricsSink, Record
from aggregate.training.progress import ProgressTeller
from aggregate.training.recorder import Recorder
from aggregate.training.saving import Saving
from pipeline.compute.seeds import keyed, own_random
from pipeline.errors import OutOfMemoryError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import TrainSpec
from pipeline.settings import CHECKPOINT_S, PROGRESS_S


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes
    ----------
    model : ScaleModel
        In eval mode; the moving average where the recipe asks for one.
    online : ScaleModel
        The network that was optimised (the same object without a moving average).
    history : tuple of mapping
        step, epoch, loss, lr and each objective's figures.
    num_steps, resumed_from : int
        Optimiser steps in all, and the step this run began at.
    seconds : float
    others : tuple of ScaleModel
        Networks of further streams.
    chance : float or None
        What the loss is where nothing is told apart, in the last step.
    """

    model: ScaleModel
    online: ScaleModel
    history: tuple[Record, ...]
    num_steps: int
    resumed_from: int
    seconds: float
    others: tuple[ScaleModel, ...] = ()
    chance: float | None = None


class Trainer:
    """Trains a :class:`ScaleModel` from a source of batches.

    Parameters
    ----------
    source : BatchSource
    spec : TrainSpec
        `crops`, `backbone` and `rows` are the caller's business; the rest is used here.
    device : torch.device
    splitter, objective : optional
        Instead of the recipe's; a neighbour of SCALE brings its own.
    checkpoints : CheckpointFolder, optional
        Where to save and to resume from.
    metrics : sequence of MetricsSink
    on_event : callable
    progress_s, checkpoint_s : float
        Seconds between two words about the progress, and after which an epoch that is not over is saved, too.
    """

    def __init__(
        self,
        source: BatchSource,
        spec: TrainSpec,
        *,
        device: torch.device,
        splitter: Splitter | None = None,
        objective: Objective | None = None,
        checkpoints: CheckpointFolder | None = None,
        metrics: Sequence[MetricsSink] = (),
        on_event: OnEvent = ignore,
        progress_s: float = PROGRESS_S,
        checkpoint_s: float = CHECKPOINT_S,
    ) -> None:
        self.source, self.spec, self.device = source, spec, device
        self.course = course = Course.of(spec, source.num_videos)
        self.learner = learner = Learner(source, spec, course, device, splitter, objective)
        guard = Guard(learner, course)
        self.recorder = Recorder(course, guard, metrics)
        text = f"{spec.name}: {source.num_videos} videos, {spec.epochs} epochs on {device}"
        teller = ProgressTeller("train", "videos", course, text, on_event, every_s=progress_s)
        hooks: list[Hook] = [guard, self.recorder, teller]
        if learner.average is not None:
            hooks.insert(0, learner.average)
        self.saving = (
            None
            if checkpoints is None
            else Saving(checkpoints, learner, course, guard, tuple(hooks), every_s=checkpoint_s)
        )
        self.hooks: tuple[Hook, ...] = (*hooks, self.saving) if self.saving is not None else tuple(hooks)

    def fit(self) -> TrainResult:
        """Run all epochs, from the newest checkpoint where there is one.

        Raises
        ------
        TrainingError
            When the loss or a gradient is not finite (says at which step and why), or nothing is ever scored.
        OutOfMemoryError
            When the device has no room for one batch.
        """
        started = time.monotonic()
        with own_random(keyed(self.spec.seed + 1), self.device):
            first = 0 if self.saving is None else self.saving.resume()
            try:
                for hook in self.hooks:
                    hook.begin(first)
                self._run(first)
            except torch.cuda.OutOfMemoryError as err:
                raise OutOfMemoryError(
                    f"expected room for a batch of {self.spec.batch_size} videos on {self.device}, found none; "
                    "halve batch_size and double accumulate"
                ) from err
            finally:
                for hook in self.hooks:
                    hook.close()
        learner = self.learner
        chosen = learner.model if learner.average is None else learner.average.model
        return TrainResult(
            chosen.eval(),
            learner.model.eval(),
            tuple(self.recorder.history),
            self.course.total_steps,
            first,
            time.monotonic() - started,
            tuple(network.eval() for network in list(learner.networks.values())[1:]),
            learner.chance,
        )

    def _run(self, first: int) -> None:
        course = self.course
        self.learner.model.train()
        done = None
        for epoch in range(first // course.steps_per_epoch, self.spec.epochs):
            begin, end = max(first, epoch * course.steps_per_epoch), (epoch + 1) * course.steps_per_epoch
            skip = (begin - epoch * course.steps_per_epoch) * course.accumulate
            micro = iter(self.source.batches(epoch, self.spec.batch_size, skip=skip))
            for number in range(begin, end):
                done = self.learner.step(number, micro)
                for hook in self.hooks:
                    hook.after(done)
        if done is not None:
            for hook in self.hooks:
                hook.end(done)
