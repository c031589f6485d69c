"""What goes along with a training: hooks with state of their own, called in order."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from aggregate.data.loader import CropData, ResidentSource
from aggregate.network.model import ScaleModel
from aggregate.training.average import MovingAverage
from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.course import Course
from aggregate.training.hooks import Hook, StepDone
from aggregate.training.trainer import Trainer
from pipeline.errors import OutOfMemoryError
from pipeline.recipe import TrainSpec
from tests.support.set_batches import CPU, TINY, crop_batch

OPTIONS = {"epochs": 2, "batch_size": 8, "set_size": 3, "model": TINY.model_dump(), "checkpoint_epochs": 1}


def make_trainer(folder=None, **options) -> Trainer:
    batch = crop_batch(20, 6, seed=0)
    data = CropData.build(batch.pool_features, batch.raw_geometry, batch.valid)
    spec = TrainSpec.model_validate({"crops": "c", "backbone": "b", **OPTIONS, **options})
    source = ResidentSource(data, frame="per_video", device=CPU, seed=0)
    checkpoints = None if folder is None else CheckpointFolder(folder, {})
    return Trainer(source, spec, device=CPU, checkpoints=checkpoints)


class Diary(Hook):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def begin(self, first: int) -> None:
        self.lines.append(f"begin {first}")

    def after(self, step: StepDone) -> None:
        self.lines.append(f"after {step.number}")

    def end(self, last: StepDone) -> None:
        self.lines.append(f"end {last.number}")

    def close(self) -> None:
        self.lines.append("close")


def test_hooks_see_every_step_once_and_are_closed_at_the_end():
    run, diary = make_trainer(), Diary()
    run.hooks = (*run.hooks, diary)
    run.fit()
    assert diary.lines == ["begin 0", "after 1", "after 2", "after 3", "after 4", "end 4", "close"]


def test_hooks_are_closed_when_the_device_has_no_room(monkeypatch):
    run, diary = make_trainer(), Diary()
    run.hooks = (*run.hooks, diary)

    def no_room(number, micro):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run.learner, "step", no_room)
    with pytest.raises(OutOfMemoryError, match="halve batch_size and double accumulate"):
        run.fit()
    assert diary.lines == ["begin 0", "close"]


def test_a_hooks_state_is_in_the_checkpoint_and_comes_back(tmp_path):
    first = make_trainer(tmp_path)
    history = first.fit().history
    saved = json.loads((tmp_path / "step-000000002" / "state.json").read_text())
    assert saved["history"] == list(history[:2])
    assert set(saved) == {"history", "total_steps", "step", "identity", "sha256"}  # as before there were hooks
    again = make_trainer(tmp_path)
    assert again.fit().resumed_from == 2
    assert again.recorder.history == list(history)


def test_the_average_is_the_sum_that_it_always_was():
    """To the last bit: models with an average were made by single calls of lerp."""
    torch.manual_seed(0)
    online = ScaleModel(8, TINY)
    average, before = MovingAverage(online, 0.9), copy.deepcopy(online)
    for _ in range(3):
        with torch.no_grad():
            for parameter, kept in zip(online.parameters(), before.parameters(), strict=True):
                parameter.add_(torch.randn_like(parameter))
                kept.lerp_(parameter, 1.0 - 0.9)
        average.after(None)
    assert all(torch.equal(a, b) for a, b in zip(average.model.parameters(), before.parameters(), strict=True))
    assert not average.model.training
    assert average.model.state_dict().keys() == online.state_dict().keys()


def test_the_course_of_a_training():
    spec = TrainSpec.model_validate({"crops": "c", "backbone": "b", "epochs": 3, "batch_size": 4, "accumulate": 2})
    course = Course.of(spec, 19)  # four full batches an epoch
    assert course == Course(accumulate=2, steps_per_epoch=2, total_steps=6)
    assert [course.epoch_of(step) for step in range(1, 7)] == [0, 0, 1, 1, 2, 2]
