"""The loop of a pretraining: batches, steps, their hooks, and looks at held-out videos; exact when resumed on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from aggregate.pretraining.clip_learner import ClipLearner
from aggregate.pretraining.neighbours import HeldOutLook
from aggregate.pretraining.processes import ALONE, Processes
from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.course import Course
from aggregate.training.guard import Guard
from aggregate.training.hooks import Hook
from aggregate.training.metrics import MetricsSink, Record
from aggregate.training.progress import ProgressTeller
from aggregate.training.recorder import Recorder
from aggregate.training.saving import Saving
from pipeline.compute.clips import ClipBatch, ClipSource
from pipeline.compute.seeds import keyed, own_random
from pipeline.errors import OutOfMemoryError
from pipeline.events import OnEvent, ignore
from pipeline.recipe import PretrainSpec
from pipeline.settings import CHECKPOINT_S, PROGRESS_S


@dataclass(frozen=True)
class PretrainResult:
    """A finished pretraining.

    Attributes
    ----------
    encoder : nn.Module
        Of the first stream, in eval mode; the moving average's where there is one.
    history : tuple of mapping
        step, epoch, loss, lr, each objective's figures; `knn_top1` where the probe looked.
    num_steps, resumed_from : int
    seconds : float
        Of the steps of this run.
    num_clips : int
        Encoded in this run, by all processes.
    chance : float or None
        What the loss is where nothing is told apart.
    """

    encoder: nn.Module
    history: tuple[Record, ...]
    num_steps: int
    resumed_from: int
    seconds: float
    num_clips: int
    chance: float | None


class Pretrainer:
    """Trains networks on clips.

    Parameters
    ----------
    name : str
        For people.
    source : ClipSource
    encoders : mapping
        Stream -> (network, its channels), in the order of the recipe.
    spec : PretrainSpec
    device : torch.device
    processes : Processes
    checkpoints : CheckpointFolder, optional
    metrics : sequence of MetricsSink
    on_first_batch : callable, optional
        Gets the first batch of a training from its beginning.
    on_event : callable
    progress_s, checkpoint_s : float
        Seconds between two words about the progress, and after which an epoch that is not over is saved, too.
    """

    def __init__(
        self,
        name: str,
        source: ClipSource,
        encoders: Mapping[str, tuple[nn.Module, int]],
        spec: PretrainSpec,
        *,
        device: torch.device,
        processes: Processes = ALONE,
        checkpoints: CheckpointFolder | None = None,
        metrics: Sequence[MetricsSink] = (),
        on_first_batch: Callable[[ClipBatch], None] | None = None,
        on_event: OnEvent = ignore,
        progress_s: float = PROGRESS_S,
        checkpoint_s: float = CHECKPOINT_S,
    ) -> None:
        self.source, self.spec, self.device, self.processes = source, spec, device, processes
        self.on_first_batch = on_first_batch
        steps = source.steps_per_epoch
        self.course = course = Course(accumulate=1, steps_per_epoch=steps, total_steps=steps * spec.epochs)
        self.learner = learner = ClipLearner(encoders, spec, course, device, processes, source.num_videos)
        guard = Guard(learner, course)
        self.recorder = Recorder(course, guard, metrics)
        text = f"{name}: {source.num_videos} videos, {spec.epochs} epochs on {device}"
        hooks: list[Hook] = [] if learner.average is None else [learner.average]
        hooks.append(guard)
        if spec.probe_epochs is not None and processes.is_first:
            hooks.append(HeldOutLook(source, learner, steps * spec.probe_epochs))
        hooks += [self.recorder, ProgressTeller("pretrain", "clips", course, text, on_event, every_s=progress_s)]
        self.saving = (
            None
            if checkpoints is None
            else Saving(
                checkpoints,
                learner,
                course,
                guard,
                tuple(hooks),
                writes=processes.is_first,
                every_s=checkpoint_s,
            )
        )
        self.hooks: tuple[Hook, ...] = (*hooks, self.saving) if self.saving is not None else tuple(hooks)

    def fit(self) -> PretrainResult:
        """Run all epochs, from the newest checkpoint where there is one.

        Raises
        ------
        TrainingError
            When the loss or a weight is not finite: says at which step, and what to change.
        OutOfMemoryError
            When the device has no room for one batch.
        """
        with own_random(keyed(self.spec.seed + 1), self.device):
            first = 0 if self.saving is None else self.saving.resume()
            started = time.monotonic()
            try:
                for hook in self.hooks:
                    hook.begin(first)
                num_clips = self._run(first)
            except torch.cuda.OutOfMemoryError as err:
                raise OutOfMemoryError(
                    f"expected room for {self.spec.batch_size} videos of {self.spec.views_per_step} clips on "
                    f"{self.device}, found none; halve batch_size, or set checkpointing: true"
                ) from err
            finally:
                for hook in self.hooks:
                    hook.close()
        learner = self.learner
        return PretrainResult(
            learner.kept.encoder.eval(),
            tuple(self.recorder.history),
            self.course.total_steps,
            first,
            time.monotonic() - started,
            num_clips,
            learner.chance,
        )

    def _run(self, first: int) -> int:
        learner = self.learner
        learner.models.train()
        number, num_clips, done = first, 0, None
        for batch in self.source.batches(first, self.course.total_steps):
            if number == 0 and self.on_first_batch is not None:
                self.on_first_batch(batch)
            done = learner.step(number, batch)
            number, num_clips = done.number, num_clips + done.num_items
            for hook in self.hooks:
                hook.after(done)
        if done is not None:
            for hook in self.hooks:
                hook.end(done)
        return num_clips
