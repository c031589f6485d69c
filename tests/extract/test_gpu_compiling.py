"""Compiling for a GPU: only where it pays, only what stays equal, and again as before; with the compiler replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extract.backbones import Backbone, BackboneInfo, gpu_compiling, load_backbone
from extract.backbones.gpu_compiling import compile_where_it_pays
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN
from extract.backbones.layers import ChannelsFirst, ChannelsLast, MeanOverSpaceTime
from pipeline.recipe import PytorchVideoBackbone
from pipeline.settings import Settings

SHAPE = (4, 3, 2, 8, 8)
ENOUGH = 10**9


class Compiler:
    """What stands in for torch.compile: keeps what a compiler would compile for anew."""

    def __init__(self, change: Callable[[Tensor], Tensor] = lambda features: features) -> None:
        self.seen: list[tuple[Any, ...]] = []
        self._change = change

    def __call__(self, network: Callable[[Tensor], Tensor], **_options: Any) -> Callable[[Tensor], Tensor]:
        def run(clips: Tensor) -> Tensor:
            state = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), torch.is_inference_mode_enabled()
            self.seen.append((tuple(clips.shape), clips.stride(), clips.dtype, clips.is_inference(), *state))
            return self._change(network(clips))

        return run


def backbone(**options: Any) -> Backbone:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(3, 5, 2), nn.ReLU(), MeanOverSpaceTime()).eval()
    info = BackboneInfo("tiny", "exported", "tiny", "mean", (0.5,) * 3, (0.2,) * 3, dim=5)
    return Backbone(info, network, dim=5, device=torch.device("cpu"), **options)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    made = Compiler()
    monkeypatch.setattr(torch, "compile", made)
    monkeypatch.setattr(gpu_compiling, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr(gpu_compiling, "has_triton", lambda: True)
    return made


@pytest.mark.parametrize("autocast", [None, "bfloat16"])
def test_batches_of_any_size_are_run_at_one_size(compiler: Compiler, autocast: Any) -> None:
    net, plain = backbone(autocast=autocast), backbone(autocast=autocast)
    way, note, _ = compile_where_it_pays(net, SHAPE, ENOUGH)
    assert (way, net.way) == (COMPILED, COMPILED), note
    for num_crops in (1, 3, 4, 6, 9):
        clips = torch.randn(num_crops, *SHAPE[2:], 3).permute(0, 4, 1, 2, 3)  # as crops come
        torch.testing.assert_close(net(clips), plain(clips), rtol=0, atol=1e-5 if autocast is None else 1e-2)
        assert net(clips).dtype == torch.float32
    assert len(set(compiler.seen)) == 1
    assert compiler.seen[0][0] == SHAPE


def test_little_work_is_not_compiled_for_unless_it_was_before(compiler: Compiler) -> None:
    assert compile_where_it_pays(backbone(), SHAPE, 10)[0] == PLAIN
    assert not compiler.seen
    assert compile_where_it_pays(backbone(as_before=COMPILED), SHAPE, 10)[0] == COMPILED
    for before in (PLAIN, OPENVINO):
        way, note, _ = compile_where_it_pays(backbone(as_before=before), SHAPE, ENOUGH)
        assert way == PLAIN
        assert "as for the shards that are there" in note


def test_what_changes_features_or_fails_is_left(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(features: Tensor) -> Tensor:
        raise RuntimeError("an assertion of the compiler\nand its trace")

    changed, failed = "changed the features by", "compiling failed with RuntimeError: an assertion"
    for change, said in ((lambda x: 1.1 * x, changed), (fail, failed)):
        monkeypatch.setattr(torch, "compile", Compiler(change))
        net = backbone()
        way, note, _ = compile_where_it_pays(net, SHAPE, ENOUGH)
        assert (way, net.way) == (PLAIN, PLAIN)
        assert said in note
        assert "trace" not in note
        assert net(torch.randn(SHAPE)).shape == (4, 5)


def test_what_is_not_faster_is_left(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_compiling, "WORTH_KEEPING", 1e9)
    assert "without gain" in compile_where_it_pays(backbone(), SHAPE, ENOUGH)[1]


def test_networks_that_convolve_channels_by_themselves_see_colours_first_on_a_gpu() -> None:
    for model, kind in (("x3d_xs", ChannelsFirst), ("c2d_r50", ChannelsLast)):
        spec = PytorchVideoBackbone(kind="pytorchvideo", model=model, weights={"random": 0})
        on_device = load_backbone(spec, Settings(), "meta").network
        assert isinstance(on_device, kind)
        assert isinstance(load_backbone(spec, Settings(), "cpu").network, ChannelsLast)


@pytest.mark.gpu
@pytest.mark.slow
def test_a_real_compiler_makes_the_same_features() -> None:
    spec = PytorchVideoBackbone(kind="pytorchvideo", model="slow_r50", weights={"random": 0})
    net, plain = (load_backbone(spec, Settings(), "cuda", expected_crops=count) for count in (ENOUGH, None))
    clips = torch.randn((4, 3, 4, 64, 64), device="cuda")
    difference = (net(clips) - plain(clips)).norm() / plain(clips).norm()
    assert float(difference) <= 2e-3
