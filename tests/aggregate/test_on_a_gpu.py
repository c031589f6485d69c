"""What a GPU makes of trainings and pretrainings is what a CPU makes of them, to float tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import aggregate
from aggregate.pretraining.pretrainer import Pretrainer
from aggregate.training.checkpoint import CheckpointFolder
from pipeline.compute.clips import ClipBatch
from pipeline.errors import TrainingError
from pipeline.events import Progress
from tests.aggregate.test_pretrainer import OBJECTIVES as CLIP_OBJECTIVES
from tests.aggregate.test_pretrainer import make_spec
from tests.support.clip_source import ToySource, toy_encoder
from tests.support.set_batches import TINY, crop_batch

pytestmark = pytest.mark.gpu

GPU = "cuda"
OPTIONS: dict[str, Any] = {
    "epochs": 3, "batch_size": 12, "set_size": 4, "learning_rate": 1e-3, "amp": "off", "model": TINY.model_dump(),
}  # fmt: skip
BLIND = {"model": {**TINY.model_dump(), "geometry": "none"}}
SYSTEMS: dict[str, dict[str, Any]] = {
    "scale": {}, "mcm": {}, "set": {}, "ntxent": {}, "vicreg": {}, "barlow_twins": {}, "carl": {}, "maclr": {},
    "coclr": {"top_k": 2}, "vicc": {"prototypes": 7, "queue": 8}, "mscl": {}, "iboot": {}, "cvrl": {"exponent": 2.0},
    "concur": {}, "stor": {"pairs": 12}, "teg": {}, "svt": {"num_local": 2}, "stc_mix": {}, "order_contrast": {},
    "const_cl": {"local_weight": 1.0, "heads": 2},
}  # fmt: skip


def arrays(share_valid: float = 0.9) -> tuple[np.ndarray, ...]:
    batch = crop_batch(24, 10, seed=3, share_valid=share_valid)
    other = np.random.default_rng(1).standard_normal((24, 10, 5)).astype(np.float32)
    return batch.pool_features.numpy(), batch.raw_geometry.numpy(), batch.valid.numpy(), other


def fit(device: str, **options: Any) -> Any:
    features, geometry, valid, other = arrays()
    return aggregate.train(
        features, geometry, valid, more_features=[other], device=device, group_ids=np.arange(24) // 2,
        **{**OPTIONS, **options},
    )  # fmt: skip


def losses(result: Any) -> list[float]:
    return [record["loss"] for record in result.history]


@pytest.mark.parametrize("kind", SYSTEMS)
def test_every_objective_takes_the_steps_that_it_takes_on_a_cpu(kind: str) -> None:
    options = {"objective": {"kind": kind, **SYSTEMS[kind]}, **(BLIND if kind in ("concur", "stor") else {})}
    assert losses(fit(GPU, **options)) == pytest.approx(losses(fit("cpu", **options)), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": {"kind": "coclr", "mine": "store", "top_k": 2}},
        {"objective": {"kind": "vicc", "stage": "cross", "prototypes": 7}},
        {"objective": {"kind": "stc_mix", "across": True}},
        {"objective": {"kind": "order_contrast", "negatives": "own"}},
        {"objective": {"kind": "sum", "parts": [{"kind": "scale"}, {"kind": "order_contrast"}], "weights": [1, 1]}},
        {"model": {**TINY.model_dump(), "norm": "temporal_group", "norm_groups": 2}},
        {"model": {**TINY.model_dump(), "geometry_frame": "per_video"}, "normalise": "train", "ema": 0.9},
        {"accumulate": 2, "batch_size": 6, "clip_norm": 1.0},
    ],
    ids=["mined in the store", "cross", "across", "own orders", "sum", "temporal norm", "standardised", "accumulated"],
)
def test_variants_take_the_steps_that_they_take_on_a_cpu(options: dict[str, Any]) -> None:
    assert losses(fit(GPU, **options)) == pytest.approx(losses(fit("cpu", **options)), rel=5e-3, abs=2e-3)


@pytest.mark.parametrize("readout", ["cls", "joined", "joined_normalised"])
def test_embeddings_are_those_of_a_cpu(readout: Any) -> None:
    model = fit(GPU).model
    features, geometry, valid, _ = arrays()
    options = {"readout": readout, "sets": 2}
    found, _ = aggregate.embed(model, features, geometry, valid, **options)
    expected, _ = aggregate.embed(model.cpu(), features, geometry, valid, **options)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


class Stop(BaseException):
    """The run is cut short."""


def test_a_resumed_training_draws_the_dropout_that_it_would_have_drawn(tmp_path: Any) -> None:
    options = {"epochs": 8, "model": {**TINY.model_dump(), "dropout": 0.3}, "amp": "bf16", "checkpoint_epochs": 1}

    def stop(event: object) -> None:
        if isinstance(event, Progress) and event.done >= 10:
            raise Stop

    whole = fit(GPU, **options)
    with pytest.raises(Stop):
        fit(GPU, checkpoints=tmp_path / "c", on_event=stop, progress_s=0.0, **options)
    resumed = fit(GPU, checkpoints=tmp_path / "c", **options)
    assert resumed.resumed_from >= 8
    assert losses(resumed) == pytest.approx(losses(whole), rel=2e-3)


@pytest.mark.slow
def test_compiled_training_is_close_to_eager() -> None:
    exact, compiled = (losses(fit(GPU, compile=way)) for way in ("off", "on"))
    assert compiled == pytest.approx(exact, rel=1e-3)


class OnGpu(ToySource):
    """Hands its clips out where the network is, as extraction does."""

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        for batch in super().batches(first_step, last_step):
            yield replace(batch, clips={stream: clip.to(GPU) for stream, clip in batch.clips.items()})

    def plain(self, rows: np.ndarray) -> Iterator[ClipBatch]:
        for batch in super().plain(rows):
            yield replace(batch, clips={stream: clip.to(GPU) for stream, clip in batch.clips.items()})


def pretrain(device: str, spec: Any, poison_step: int | None = None, **options: Any) -> Any:
    encoders = {stream: toy_encoder(k) for k, stream in enumerate(spec.streams)}
    kind = ToySource if device == "cpu" else OnGpu
    source = kind(views=spec.views_per_step, streams=spec.streams, poison_step=poison_step)
    return Pretrainer("toy", source, encoders, spec, device=torch.device(device), **options).fit()


@pytest.mark.parametrize("name", CLIP_OBJECTIVES)
def test_every_pretraining_takes_the_steps_that_it_takes_on_a_cpu(name: str) -> None:
    spec = make_spec(epochs=3, amp="off", learning_rate=1e-3, probe_epochs=1, **CLIP_OBJECTIVES[name])
    assert losses(pretrain(GPU, spec)) == pytest.approx(losses(pretrain("cpu", spec)), rel=1e-2, abs=2e-3)


def test_a_resumed_pretraining_is_close_to_an_uninterrupted_one(tmp_path: Any) -> None:
    spec = make_spec(checkpoint_epochs=2, ema=0.9, amp="bf16", head={"hidden_dim": 16, "norm": "batch"})
    whole = pretrain(GPU, spec)
    folder = CheckpointFolder(tmp_path / "c", {})
    with pytest.raises(TrainingError, match=r"found loss nan at step \d+ of 24"):
        pretrain(GPU, spec, poison_step=16, checkpoints=folder)
    resumed = pretrain(GPU, spec, checkpoints=folder)
    assert resumed.resumed_from == 12
    assert losses(resumed) == pytest.approx(losses(whole), rel=2e-2)
