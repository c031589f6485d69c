"""Published checkpoints act the same in the networks here as in an independent network with their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.backbones import load_backbone
from extract.backbones.checkpoint_keys import select_copy, to_pytorchvideo
from pipeline.errors import WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import PytorchVideoBackbone
from pipeline.settings import Settings
from tests.support.reference_networks import PySlowFastResNet, PySlowFastSlowFast, randomise

pytestmark = pytest.mark.usefixtures("one_thread")

State = dict[str, Tensor]


def save(state: object, path: Path) -> dict[str, str]:
    torch.save(state, path)
    return {"path": str(path), "sha256": hash_file(path)}


def load(model: str, weights: dict[str, str]):
    spec = PytorchVideoBackbone(kind="pytorchvideo", model=model, weights=weights)
    return load_backbone(spec, Settings())


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def contrastive(state: State) -> State:
    """As BYOL and MoCo files of PySlowFast hold it: both copies, a queue, a predictor."""
    online = {f"backbone.{k}": v for k, v in state.items()}
    momentum = {f"backbone_hist.{k}": v * 2 for k, v in state.items()}
    return {**online, **momentum, "queue_x": torch.zeros(4, 2), "ptr": torch.tensor([0]), "iter": torch.zeros(1)}


@pytest.fixture(scope="module")
def slow() -> tuple[nn.Module, Tensor, Tensor]:
    network = randomise(PySlowFastResNet("slow_r50"), seed=1)
    clips = torch.randn(2, 3, 4, 64, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        return network, clips, network(clips)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model_state": s, "epoch": 3},
        lambda s: {"model_state": contrastive(s), "cfg": "a: 1"},
        lambda s: {f"module.backbone.{k}": v for k, v in s.items()},
    ],
    ids=["plain", "contrastive", "distributed"],
)
def test_pyslowfast_slow_r50(
    slow: tuple[nn.Module, Tensor, Tensor], wrap: Callable[[State], object], tmp_path: Path
) -> None:
    network, clips, expected = slow
    weights = save(wrap(network.state_dict()), tmp_path / "slow.pyth")
    backbone = load("slow_r50", weights)
    assert backbone.is_trained
    assert_close(backbone(clips), expected)


def test_momentum_copy(slow: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    network, clips, online = slow
    momentum = randomise(PySlowFastResNet("slow_r50"), seed=5)
    state = {f"backbone.{k}": v for k, v in network.state_dict().items()}
    state |= {f"backbone_hist.{k}": v for k, v in momentum.state_dict().items()}
    weights = save({"model_state": state}, tmp_path / "byol.pyth")
    with torch.inference_mode():
        expected = momentum(clips)
    assert not torch.allclose(expected, online)
    backbone = load("slow_r50", {**weights, "network": "momentum"})
    assert_close(backbone(clips), expected)
    assert backbone.description()["weights"]["network"] == "momentum"


@pytest.mark.parametrize("model", ["c2d_r50", "i3d_r50"])
def test_pyslowfast_with_a_pool_between_stages(model: str, tmp_path: Path) -> None:
    network = randomise(PySlowFastResNet(model), seed=3)
    clips = torch.randn(1, 3, 4, 64, 64)
    backbone = load(model, save({"model_state": network.state_dict()}, tmp_path / "w.pyth"))
    with torch.inference_mode():
        assert_close(backbone(clips), network(clips))


def test_pyslowfast_slowfast(tmp_path: Path) -> None:
    network = randomise(PySlowFastSlowFast(), seed=4)
    clips = torch.randn(1, 3, 8, 64, 64)
    backbone = load("slowfast_r50", save(network.state_dict(), tmp_path / "w.pyth"))
    with torch.inference_mode():
        assert_close(backbone(clips), network(clips[:, :, [0, 7]], clips))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_zoo_files_keep_their_own_head_out(prefix: str, tmp_path: Path) -> None:
    from extract.backbones.torchvision_standin import import_pytorchvideo_models

    network = randomise(import_pytorchvideo_models().hub.slow_r50(), seed=6)
    network.blocks[5].pool = nn.AdaptiveAvgPool3d(1)
    weights = save({"model_state": {prefix + k: v for k, v in network.state_dict().items()}}, tmp_path / "SLOW.pyth")
    clips = torch.randn(2, 3, 4, 64, 64)
    seen: list[Tensor] = []
    network.blocks[5].proj.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        network(clips)
    assert_close(load("slow_r50", weights)(clips), seen[0].reshape(2, 2048))


def test_sub_batch_norm_statistics_stand_one_level_deeper() -> None:
    state = {
        "s1.pathway0_stem.bn.weight": torch.ones(64),
        "s1.pathway0_stem.bn.bn.running_mean": torch.ones(64),
        "s1.pathway0_stem.bn.split_bn.running_mean": torch.zeros(128),
    }
    found = to_pytorchvideo(state, "slow_r50", "online", what="test")
    assert set(found) == {"blocks.0.norm.weight", "blocks.0.norm.running_mean"}
    assert found["blocks.0.norm.running_mean"].sum() == 64


def test_no_momentum_copy_is_an_error() -> None:
    with pytest.raises(WeightsError, match="network: online"):
        select_copy({"backbone.a": torch.zeros(1)}, "momentum", what="test")


def test_wrong_model_names_what_differs(slow: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    weights = save({"model_state": slow[0].state_dict()}, tmp_path / "slow.pyth")
    with pytest.raises(
        WeightsError, match=r"blocks\.0\.conv\.weight: expected \(64, 3, 5, 7, 7\), found \(64, 3, 1, 7"
    ):
        load("i3d_r50", weights)


def test_pyslowfast_x3d_is_refused_by_name() -> None:
    with pytest.raises(WeightsError, match="no counterpart in x3d_s"):
        to_pytorchvideo({"s1.pathway0_stem.conv_xy.weight": torch.zeros(1)}, "x3d_s", "online", what="test")
