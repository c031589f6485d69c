"""A pretraining on clips: every objective learns, a resume is exact, what is not finite stops it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from aggregate.pretraining.clip_model import ClipModel
from aggregate.pretraining.pretrainer import Pretrainer, PretrainResult
from aggregate.training.checkpoint import CheckpointFolder, pack_training, unpack_training
from pipeline.compute.seeds import seeded
from pipeline.errors import InvalidInputError, TrainingError
from pipeline.recipe import PretrainSpec
from pipeline.recipe.pretraining import HeadSpec
from tests.support.clip_source import ToySource, toy_encoder

CLIPS = {"policy": "random", "num_crops": 4, "num_frames": 2, "size_px": 16}


def make_spec(**fields: Any) -> PretrainSpec:
    given = {"clips": CLIPS, "batch_size": 8, "epochs": 8, "learning_rate": 1e-2, "head": {"hidden_dim": 16}} | fields
    return PretrainSpec.model_validate(given)


def pretrain(spec: PretrainSpec, source: ToySource | None = None, **options: Any) -> PretrainResult:
    encoders = {stream: toy_encoder(k) for k, stream in enumerate(spec.streams)}
    source = source or ToySource(views=spec.views_per_step, streams=spec.streams)
    return Pretrainer("toy", source, encoders, spec, device=torch.device("cpu"), **options).fit()  # type: ignore[arg-type]


OBJECTIVES: dict[str, dict[str, Any]] = {
    "ntxent": {"objective": {"kind": "ntxent", "temperature": 0.2}},
    "cvrl": {"objective": {"kind": "cvrl"}},
    "vicreg": {"objective": {"kind": "vicreg"}},
    "vicc": {"objective": {"kind": "vicc", "prototypes": 8, "queue": 16}},
    "vicc, two streams": {
        "objective": {"kind": "vicc", "stage": "cross", "prototypes": 8}, "streams": ["rgb", "tgrad"],
    },
    "coclr": {"objective": {"kind": "coclr", "top_k": 2}, "streams": ["rgb", "tgrad"]},
    "svt": {
        "objective": {"kind": "svt", "num_global": 2, "num_local": 2},
        "clips": {"policy": "local_global", "num_global": 2, "num_local": 2, "num_frames": 2, "size_px": 16},
        "views": None,
    },
    "speed": {"objective": {"kind": "speed", "speeds": [-2, -1, 1, 2]}, "views": None, "set_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_lowers_its_loss(name: str) -> None:
    result = pretrain(make_spec(epochs=10, **OBJECTIVES[name]))
    losses = [float(record["loss"] or 0.0) for record in result.history]
    assert len(losses) == result.num_steps == 10 * 3
    drawn, _ = toy_encoder()
    assert not torch.equal(drawn[1].weight, result.encoder[1].weight)  # type: ignore[index]
    if name not in ("speed", "svt"):  # the toy's clips do not show their speed; a teacher's targets move
        assert sum(losses[-6:]) < sum(losses[:6])


def test_what_is_learned_shows_in_the_neighbours_of_held_out_videos() -> None:
    history = pretrain(make_spec(probe_epochs=4, epochs=8)).history
    probed = [(record["step"], record["knn_top1"]) for record in history if "knn_top1" in record]
    assert [step for step, _ in probed] == [12, 24]
    assert float(probed[-1][1] or 0) > 0.8


@pytest.mark.parametrize("fields", [{"ema": 0.9}, {"optimiser": "sgd"}, {"objective": {"kind": "vicc", "queue": 8}}])
def test_a_resumed_pretraining_equals_an_uninterrupted_one(tmp_path: Path, fields: dict[str, Any]) -> None:
    spec = make_spec(checkpoint_epochs=2, **fields)
    whole = pretrain(spec)
    folder = CheckpointFolder(tmp_path / "c", {})
    with pytest.raises(TrainingError, match="step 17 of 24"):
        pretrain(spec, ToySource(poison_step=16), checkpoints=folder)
    resumed = pretrain(spec, checkpoints=folder)
    assert resumed.resumed_from == 12
    assert resumed.history == whole.history
    for name, tensor in whole.encoder.state_dict().items():
        assert torch.equal(tensor, resumed.encoder.state_dict()[name])


def test_moments_come_back_in_the_strides_of_their_weights() -> None:
    drawn = torch.randn((6, 4, 3, 3, 5, 5), generator=seeded(0))
    ends = []
    for is_resumed in (False, True):
        model = nn.Conv3d(3, 4, (3, 5, 5), bias=False)
        model.weight.data = drawn[0].contiguous(memory_format=torch.channels_last_3d)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        for step in range(1, 6):
            model.weight.grad = drawn[step].contiguous(memory_format=torch.channels_last_3d)
            optimiser.step()
            if is_resumed and step == 2:
                packed = pack_training(model, nn.Identity(), optimiser, None, torch.device("cpu"))
                stored = {name: tensor.clone().contiguous() for name, tensor in packed.items()}
                unpack_training(stored, model, nn.Identity(), optimiser, None, torch.device("cpu"))
        ends.append(model.weight.detach())
    assert torch.equal(*ends)


def test_a_head_with_norms_takes_out_what_all_clips_have_in_common() -> None:
    common = 5.0 + torch.randn((6, 2, 8), generator=seeded(0)) / 10
    for norm, nearest in (("none", 0.9), ("batch", 0.5)):
        torch.manual_seed(0)
        head = ClipModel(nn.Identity(), 8, HeadSpec(hidden_dim=16, norm=norm)).set_head  # type: ignore[arg-type]
        told = functional.normalize(head(common).flatten(0, 1), dim=-1)
        alike = (told @ told.T)[~torch.eye(12, dtype=torch.bool)].mean()
        assert (alike > nearest) if norm == "none" else (alike.abs() < nearest)
        assert head(common[:0]).shape == (0, 2, 64)
        assert head(common[:1, :1]).isfinite().all()


def test_a_loss_that_is_no_number_stops_and_says_what_to_do() -> None:
    with pytest.raises(TrainingError, match=r"found loss nan at step 3 of 24.*lower learning_rate"):
        pretrain(make_spec(), ToySource(poison_step=2))


def test_an_objective_of_two_streams_wants_two() -> None:
    with pytest.raises(InvalidInputError, match="expected 2 streams"):
        pretrain(make_spec(objective={"kind": "coclr"}))


def test_negatives_that_are_stored_features_are_refused() -> None:
    with pytest.raises(ValueError, match="sees pixels and no stored features; leave `turned` out"):
        make_spec(objective={"kind": "mscl", "turned": "c/fake-flow_turned"}, streams=["rgb", "flow"])


@pytest.mark.parametrize("kind", ["const_cl", "stc_mix", "order_contrast"])
def test_objectives_that_ask_for_a_set_transformer_are_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"found {kind}, which asks for a set transformer"):
        pretrain(make_spec(objective={"kind": kind}))


def test_two_runs_of_one_recipe_are_equal_and_leave_the_callers_chance_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = pretrain(make_spec(epochs=2))
    toy_encoder()
    torch.set_rng_state(state)
    second = pretrain(make_spec(epochs=2))
    assert first.history == second.history
