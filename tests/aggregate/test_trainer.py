from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.exc import InternalTorchDynamoError

import aggregate
from aggregate.data.loader import CropData, ResidentSource, StreamSource
from aggregate.training.checkpoint import CheckpointFolder
from aggregate.training.course import Course
from aggregate.training.metrics import JsonLines, TensorBoard
from aggregate.training.trainer import Trainer
from pipeline.compute.seeds import keyed
from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError, TrainingError
from pipeline.events import Progress, StageStarted
from pipeline.recipe import TrainSpec
from pipeline.settings import CHECKPOINT_S
from tests.support.set_batches import CPU, TINY, crop_batch

OPTIONS = {
    "epochs": 6, "batch_size": 8, "set_size": 3, "learning_rate": 3e-3, "checkpoint_epochs": 2,
    "model": {**TINY.model_dump(), "dropout": 0.1},
}  # fmt: skip


def crops(num_videos: int = 20, share_valid: float = 0.9, seed: int = 0) -> CropData:
    batch = crop_batch(num_videos, 6, seed=seed, share_valid=share_valid)
    return CropData.build(batch.pool_features, batch.raw_geometry, batch.valid)


def make_trainer(
    data: CropData | None = None,
    *,
    source=None,
    folder=None,
    on_event=lambda e: None,
    metrics=(),
    checkpoint_s=CHECKPOINT_S,
    **options,
):
    spec = TrainSpec.model_validate({"crops": "c", "backbone": "b", **OPTIONS, **options})
    source = source or ResidentSource(data or crops(), frame="per_video", device=CPU, seed=spec.seed)
    checkpoints = None if folder is None else CheckpointFolder(folder, {"spec": spec.model_dump(mode="json")})
    return Trainer(
        source,
        spec,
        device=CPU,
        checkpoints=checkpoints,
        on_event=on_event,
        metrics=metrics,
        progress_s=0.0,
        checkpoint_s=checkpoint_s,
    )


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


@pytest.mark.parametrize("kind", ["scale", "mcm", "set", "ntxent"])
def test_every_objective_learns(kind):
    result = make_trainer(crops(40, 1.0), epochs=40, objective={"kind": kind}).fit()
    early = sum(r["loss"] for r in result.history[:10]) / 10
    late = sum(r["loss"] for r in result.history[-10:]) / 10
    assert late < 0.9 * early
    assert not result.model.training


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = make_trainer().fit()
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(99)
    second = make_trainer().fit()
    assert same_weights(first.model, second.model)
    assert [r["loss"] for r in first.history] == [r["loss"] for r in second.history]
    assert not same_weights(first.model, make_trainer(seed=1).fit().model)


class Stop(BaseException):
    """What a test ends a training with."""


def interrupt_at(step: int):
    def listen(event) -> None:
        if isinstance(event, Progress) and event.done >= step:
            raise Stop

    return listen


@pytest.mark.parametrize("stop_at", [1, 4, 5, 9])
@pytest.mark.parametrize("every_step", [False, True])
@pytest.mark.parametrize("extra", [{}, {"ema": 0.9, "clip_norm": 1.0, "accumulate": 2}])
def test_interrupted_and_resumed_equals_uninterrupted_to_the_last_digit(tmp_path, stop_at, every_step, extra):
    checkpoint_s = 0.0 if every_step else CHECKPOINT_S  # in the middle of an epoch, or at its end
    data = crops(36)
    whole = make_trainer(data, metrics=[JsonLines(tmp_path / "a" / "m.jsonl")], **extra).fit()
    sinks = [JsonLines(tmp_path / "b" / "m.jsonl")]
    with pytest.raises(Stop):
        make_trainer(
            data,
            folder=tmp_path / "c",
            metrics=sinks,
            on_event=interrupt_at(stop_at),
            checkpoint_s=checkpoint_s,
            **extra,
        ).fit()
    resumed = make_trainer(data, folder=tmp_path / "c", metrics=sinks, **extra).fit()
    assert resumed.resumed_from <= stop_at
    if every_step and stop_at > 1:
        assert resumed.resumed_from >= stop_at - 1
    assert same_weights(whole.model, resumed.model)
    assert same_weights(whole.online, resumed.online)
    assert whole.history == resumed.history
    assert (tmp_path / "a" / "m.jsonl").read_bytes() == (tmp_path / "b" / "m.jsonl").read_bytes()


def test_another_configuration_does_not_resume(tmp_path):
    with pytest.raises(Stop):
        make_trainer(folder=tmp_path, on_event=interrupt_at(9)).fit()
    assert make_trainer(folder=tmp_path).fit().resumed_from > 0
    assert make_trainer(folder=tmp_path, learning_rate=1e-3).fit().resumed_from == 0


def test_accumulation_averages_its_parts():
    """Two parts of four videos: the gradient is the mean of both, which a manual step confirms."""
    one = make_trainer(crops(8, 1.0), batch_size=4, accumulate=2, epochs=1, warmup_fraction=0.0)
    learner = one.learner
    learner.model.eval()  # no dropout, so that both can be computed apart
    micro = list(one.source.batches(0, 4))
    losses = []
    for number, part in enumerate(micro):
        result = learner.score(learner.make_batch(part, number), part, 0)
        (result.loss / 2).backward()
        losses.append(float(result.loss.detach()))
    expected = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    assert float(learner.step(0, iter(micro)).loss) == pytest.approx(sum(losses) / 2, rel=1e-6)
    for name, parameter in learner.model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_more_accumulation_than_batches_is_one_step_an_epoch():
    trained = make_trainer(crops(16, 1.0), batch_size=8, accumulate=5, epochs=3)
    assert trained.course == Course(accumulate=2, steps_per_epoch=1, total_steps=3)
    trained.fit()


def test_moving_average_is_what_it_says():
    run = make_trainer(ema=0.5, epochs=1, warmup_fraction=0.0)
    start = {n: p.detach().clone() for n, p in run.learner.model.named_parameters()}
    average = run.learner.average
    average.after(run.learner.step(0, iter(run.source.batches(0, 8))))
    for name, kept in average.model.named_parameters():
        online = dict(run.learner.model.named_parameters())[name]
        torch.testing.assert_close(kept, (start[name] + online) / 2)
    result = make_trainer(ema=0.5).fit()
    assert result.model is not result.online
    assert not same_weights(result.model, result.online)


def test_clipping_limits_the_gradient():
    run = make_trainer(clip_norm=1e-3, epochs=1)
    logs = run.learner.step(1, iter(run.source.batches(0, 8))).logs
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in run.learner.parameters() if p.grad is not None))
    assert norm <= 1.001e-3
    assert float(logs["gradient_norm"]) > 1e-3


@pytest.mark.parametrize(
    ("objective", "model"),
    [
        ({"mask_ratio": 0.0}, {}),
        ({"negatives": "no_siblings", "positives": "nearest"}, {}),
        ({"negatives": "other_videos", "mask_ratio": 0.75}, {"geometry": "none"}),
        ({}, {"geometry_frame": "absolute", "geometry": "time"}),
    ],
)
def test_every_option_trains(objective, model):
    result = make_trainer(epochs=2, objective=objective, model={**OPTIONS["model"], **model}).fit()
    assert all(math.isfinite(r["loss"]) for r in result.history)


def test_videos_of_one_crop_train_masked_crops_and_have_no_set_pairs():
    batch = crop_batch(6, 1, seed=0)
    data = CropData.build(batch.pool_features, batch.raw_geometry, batch.valid)
    result = make_trainer(data, epochs=3, objective={"mask_ratio": 0.9}).fit()
    assert all(r["set_loss"] == 0.0 for r in result.history)
    assert any(r["mcm_loss"] > 0 for r in result.history)


def test_videos_without_a_valid_crop_are_left_out_and_one_video_is_too_few():
    data = crops(6, 1.0)
    data.valid[2:] = False
    assert ResidentSource(data, frame="per_video", device=CPU, seed=0).num_videos == 2
    data.valid[1:] = False
    with pytest.raises(NoDataError, match="at least 2 videos with valid crops to train on, found 1"):
        ResidentSource(data, frame="per_video", device=CPU, seed=0)


def test_a_selection_smaller_than_a_batch_is_one_batch():
    assert make_trainer(crops(5, 1.0), batch_size=512, epochs=2).fit().num_steps == 2


def test_features_that_are_not_finite_stop_it_with_their_rows():
    data = crops(16, 1.0)
    data.features[3, 2, 0] = torch.nan
    with pytest.raises(
        TrainingError,
        match=r"expected a finite loss and finite weights, found loss nan at step \d+ of 12.*rows 3\).*scale verify",
    ):
        make_trainer(data).fit()


def test_divergence_stops_it_with_a_reason_and_keeps_the_last_good_checkpoint(tmp_path):
    folder = tmp_path / "c"
    with pytest.raises(TrainingError, match=r"lower learning_rate|overflowed"):
        make_trainer(crops(16, 1.0), folder=folder, learning_rate=1e38, epochs=8, warmup_fraction=0.5).fit()
    kept = CheckpointFolder(folder, {})
    for path in folder.glob("step-*/state.json"):
        kept.identity = json.loads(path.read_text())["identity"]
        tensors = kept.load_latest().tensors
        assert all(torch.isfinite(v).all() for v in tensors.values() if v.is_floating_point())


@pytest.mark.parametrize("at", [4, 12])
def test_a_broken_gradient_is_never_saved(tmp_path, monkeypatch, at):
    """The loss is finite, the step is not: neither a checkpoint nor the last step's model goes out."""
    run = make_trainer(crops(16, 1.0), folder=tmp_path, checkpoint_epochs=1)
    original = run.learner.step

    def poisoned(step, micro):
        out = original(step, micro)
        if step + 1 == at:
            run.learner.model.norm.weight.data[0] = torch.nan
        return out

    monkeypatch.setattr(run.learner, "step", poisoned)
    with pytest.raises(TrainingError, match=rf"at step {at} of 12 .*parameters norm.weight are not finite"):
        run.fit()
    assert sorted(p.name for p in tmp_path.glob("step-*"))[-1] == f"step-{at - 2:09d}"


def test_huge_but_finite_features_are_no_nan():
    data = crops(16, 1.0)
    scaled = CropData.build(data.features * 1e4, data.raw_geometry, data.valid)
    assert math.isfinite(make_trainer(scaled, epochs=2).fit().history[-1]["loss"])


def test_bfloat16_stays_near_float32():
    exact = make_trainer(crops(16, 1.0), epochs=1).fit().history[0]["loss"]
    rough = make_trainer(crops(16, 1.0), epochs=1, amp="bf16").fit().history[0]["loss"]
    assert rough == pytest.approx(exact, rel=2e-2)
    assert rough != exact


def test_streamed_equals_resident_when_the_order_is_the_same():
    data = crops(16, 1.0)
    resident = ResidentSource(data, frame="per_video", device=CPU, seed=0)

    def open_epoch(epoch: int, batch_size: int, skip: int) -> Iterator[CropData]:
        generator = torch.Generator().manual_seed(keyed(0, epoch))
        for chosen in torch.randperm(16, generator=generator).split(batch_size)[skip:]:
            yield CropData(
                data.features[chosen], data.raw_geometry[chosen], data.valid[chosen], data.video_ids[chosen],
                data.group_ids[chosen],
            )  # fmt: skip

    halves = [data.keep(torch.arange(16) < 8), data.keep(torch.arange(16) >= 8)]
    stream = StreamSource(
        open_epoch, num_videos=16, input_dim=8, frame="per_video", device=CPU, in_order=lambda: halves
    )
    assert same_weights(make_trainer(source=resident).fit().model, make_trainer(source=stream).fit().model)
    assert len(list(stream.batches(0, 8, skip=1))) == 1


def test_events_and_metrics_tell_the_same_story(tmp_path):
    events = []
    result = make_trainer(on_event=events.append, metrics=[JsonLines(tmp_path / "m.jsonl")]).fit()
    assert isinstance(events[0], StageStarted)
    assert (events[0].total, events[0].unit) == (12, "steps")
    last = [e for e in events if isinstance(e, Progress)][-1]
    assert (last.done, last.total) == (12, 12)
    assert set(last.values) == {"loss", "lr", "videos_per_s"}
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert lines == list(result.history)
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert {"set_loss", "set_accuracy", "mcm_loss", "mcm_accuracy", "epoch", "lr"} <= set(lines[0])


def test_tensorboard_gets_every_figure(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = make_trainer(metrics=[TensorBoard(tmp_path)], epochs=2).fit()
    seen = EventAccumulator(str(tmp_path))
    seen.Reload()
    values = [e.value for e in seen.Scalars("loss")]
    assert values == pytest.approx([r["loss"] for r in result.history], rel=1e-6)


def test_train_on_plain_arrays_serves_a_notebook(tmp_path):
    data = crops(12, 1.0)
    arrays = data.features.half().numpy(), data.raw_geometry.numpy(), data.valid.numpy()
    result = aggregate.train(*arrays, device="cpu", checkpoints=tmp_path / "run", **OPTIONS)
    values, valid = aggregate.embed(result.model, *arrays)
    assert values.shape == (12, 16)
    assert valid.all()
    again = aggregate.train(*arrays, device="cpu", checkpoints=tmp_path / "run", **OPTIONS)
    assert same_weights(again.model, result.model)


def test_wrong_input_is_answered_with_words():
    data = crops(6, 1.0)
    with pytest.raises(InvalidInputError, match=r"epoch: Extra inputs are not permitted"):
        aggregate.train(data.features, data.raw_geometry, epoch=3)
    with pytest.raises(InvalidInputError, match=r"objective\.mask_ratio"):
        aggregate.train(data.features, data.raw_geometry, objective={"mask_ratio": 2})
    with pytest.raises(InvalidInputError, match="either spec or options"):
        aggregate.train(data.features, data.raw_geometry, spec=aggregate.make_spec(), epochs=3)
    with pytest.raises(InvalidInputError, match="expected a device auto, cpu, cuda or cuda:N, found 'tpu0'"):
        aggregate.train(data.features, data.raw_geometry, device="tpu0")
    with (
        pytest.raises(InvalidInputError, match="found 0 CUDA devices")
        if not torch.cuda.is_available()
        else pytest.raises(InvalidInputError)
    ):
        aggregate.pick_device("cuda:99")
    with pytest.raises(ShapeMismatchError, match=r"raw geometry \(videos, crops, 9\)"):
        aggregate.train(data.features, data.raw_geometry[..., :7])
    with pytest.raises(ShapeMismatchError, match="expected valid"):
        aggregate.train(data.features, data.raw_geometry, torch.ones(6, 5, dtype=torch.bool))


@pytest.mark.parametrize(("way", "is_compiled"), [("auto", False), ("off", False), ("on", True)])
def test_only_who_asks_gets_a_compiled_network(way, is_compiled):
    """Of its own accord nothing is compiled: measured on a GPU, a compiled step is slower than an eager one."""
    learner = make_trainer(compile=way).learner
    assert (learner.encoder is not learner.model) == is_compiled


def test_where_compiling_fails_the_training_goes_on_without(monkeypatch, caplog):
    """As with torch 2.11 on a GPU, where every training of 2,000 steps ended in the compiler."""

    def broken(model, **options):
        def run(*inputs):
            raise InternalTorchDynamoError("an assertion of the compiler")

        return run

    expected = make_trainer(crops(16, 1.0), epochs=2).fit().history
    monkeypatch.setattr(torch, "compile", broken)
    assert make_trainer(crops(16, 1.0), epochs=2, compile="on").fit().history == expected
    assert [r.message for r in caplog.records if "compil" in r.message] == [
        "compiling failed, the training goes on without: an assertion of the compiler"
    ]


@pytest.mark.slow
def test_compiled_training_is_close_to_eager():
    exact = make_trainer(crops(16, 1.0), epochs=2, model=TINY.model_dump()).fit()
    compiled = make_trainer(crops(16, 1.0), epochs=2, model=TINY.model_dump(), compile="on").fit()
    losses = [[r["loss"] for r in run.history] for run in (exact, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.gpu
def test_the_gpu_path_trains_and_resumes(tmp_path):
    data = crops(16, 1.0)
    arrays = data.features.half(), data.raw_geometry, data.valid
    result = aggregate.train(*arrays, device="cuda", checkpoints=tmp_path, **OPTIONS)
    assert all(math.isfinite(r["loss"]) for r in result.history)
    values, _ = aggregate.embed(result.model, *arrays)
    assert values.device.type == "cpu"
