"""Faster forms of a network give the same features; where one cannot be had, a line says why."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.backbones import Backbone, BackboneInfo, load_backbone, optimise, say_uncompiled_once
from extract.backbones.compiling import compiled
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN
from extract.backbones.layers import ChannelsLast, LimitedBatch, MeanOverFrames, MeanOverSpaceTime
from extract.backbones.openvino_network import is_installed
from extract.backbones.tuning import fold_batch_norms, tuned, use_python_ints
from pipeline.events import Event, Note
from pipeline.recipe import PytorchVideoBackbone
from pipeline.settings import Settings
from tests.support.reference_networks import randomise

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 3, 4, 16, 16)


@pytest.fixture(autouse=True)
def _compiler_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))


class Misleading(nn.Module):
    """Lists its norm before the convolution that does not feed it."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv3d(6, 6, 1)
        self.norm = nn.BatchNorm3d(6)
        self.first = nn.Conv3d(3, 6, (3, 3, 3), padding=1)
        self.twice = nn.Conv3d(6, 6, 1)
        self.shared_norm = nn.BatchNorm3d(6)
        self.act, self.pool = nn.ReLU(), MeanOverSpaceTime()

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.act(self.norm(self.first(x))))
        x = self.shared_norm(self.twice(x))
        return self.pool(self.shared_norm(self.twice(x)) + x)


class ReadsTwice(nn.Module):
    """Uses a convolution's output beside the norm that it feeds: folding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pool = nn.Conv3d(3, 6, 1), nn.BatchNorm3d(6), MeanOverSpaceTime()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.pool(self.norm(x) + x)


def info(**changes: object) -> BackboneInfo:
    fields = {"name": "tiny", "kind": "test", "model": "tiny", "readout": "mean", "dim": 6, "compile_gain": 2.0}
    return BackboneInfo(mean=(0, 0, 0), std=(1, 1, 1), **{**fields, **changes})  # type: ignore[arg-type]


def backbone(network: nn.Module, **changes: object) -> Backbone:
    return Backbone(info(), network, dim=6, device=torch.device("cpu"), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("network", ["x3d_xs", "mvit_base_16"])
def test_weights_are_ordinary_tensors(network: str) -> None:
    """Of weights made in inference mode a GPU makes no convolution in float32: no such extraction began."""
    spec = PytorchVideoBackbone(kind="pytorchvideo", model=network, weights={"random": 0})
    for device in ("cpu", "meta"):
        built = load_backbone(spec, Settings(), device).network
        assert not any(t.is_inference() for t in (*built.parameters(), *built.buffers()))


def test_folding_follows_the_data_not_the_listing() -> None:
    network = randomise(Misleading())
    clips = torch.randn(SHAPE)
    with torch.inference_mode():
        expected = network(clips)
        folded = fold_batch_norms(network, clips)
        torch.testing.assert_close(folded(clips), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(folded.norm, nn.Identity)
    assert isinstance(folded.shared_norm, nn.BatchNorm3d)  # its convolution runs twice: left alone


def test_a_change_that_does_not_hold_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    network = randomise(ReadsTwice())
    clips = torch.randn(SHAPE)
    with torch.inference_mode():
        expected = network(clips)
        with caplog.at_level(logging.WARNING):
            found = tuned(network, info())
        torch.testing.assert_close(found(clips), expected)
    assert "runs as built" in caplog.text


def test_a_program_that_fixes_strides_runs_as_built(caplog: pytest.LogCaptureFixture) -> None:
    class Views(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(x.shape[0], -1)[:, :6]

    network = Views()
    with caplog.at_level(logging.INFO):
        assert tuned(network, info(kind="exported")) is network
    assert "view size is not compatible" in caplog.text


def test_pooling_modules_accept_any_strides() -> None:
    image_network = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    clips = torch.randn(2, 3, 4, 9, 7)
    with torch.inference_mode():
        expected = torch.stack([image_network(clips[:, :, t]) for t in range(4)], dim=1).mean(1)
        for layout in (clips, clips.contiguous(memory_format=torch.channels_last_3d), clips.transpose(3, 4)):
            again = layout if layout.shape == clips.shape else layout.transpose(3, 4)
            for network in (MeanOverFrames(image_network), MeanOverFrames(ChannelsLast(image_network))):
                torch.testing.assert_close(network(again), expected, rtol=1e-4, atol=1e-5)
        limited = LimitedBatch(image_network, 2, 3)
        for n in range(1, 9):
            torch.testing.assert_close(
                limited(clips[:1, :, 0].repeat(n, 1, 1, 1)),
                image_network(clips[:1, :, 0].repeat(n, 1, 1, 1)),
                rtol=1e-4,
                atol=1e-5,
            )


def test_numpy_integers_become_python_integers() -> None:
    import numpy as np

    network = nn.Conv3d(3, 4, 1)
    network.stride = (np.int64(1), np.int64(2), 2)
    use_python_ints(network)
    assert all(type(v) is int for v in network.stride)


def test_little_work_is_not_compiled() -> None:
    events: list[Event] = []
    result = optimise(backbone(randomise(Misleading())), SHAPE, 10, events.append)
    assert result.way == PLAIN
    assert "would save 0 s" in result.note
    assert [type(e) for e in events] == [Note]


def test_that_nothing_is_compiled_is_said_once_a_run_not_for_every_network_and_size() -> None:
    events: list[Event] = []
    tell = say_uncompiled_once(events.append)
    for size_px in (SHAPE[-1], SHAPE[-1] + 2):
        optimise(backbone(randomise(Misleading())), (*SHAPE[:3], size_px, size_px), 10, tell)
    tell(Note("extract", "shard 3: its worker died"))
    assert [e.text.split(":")[1][:16] for e in events if isinstance(e, Note)] == [
        " runs uncompiled",
        " its worker died",
    ]


def test_what_is_there_decides_not_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("extract.backbones.compiling.compiled", lambda network, fewest: asked.append(fewest) or network)
    much = optimise(backbone(randomise(Misleading()), as_before=PLAIN), SHAPE, 10**9)
    assert (much.way, asked) == (PLAIN, [])
    assert much.note.startswith("runs uncompiled, as for the shards that are there")
    optimise(backbone(randomise(Misleading()), as_before=COMPILED), SHAPE, 1)
    assert len(asked) == 1


def test_no_compiler_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("extract.backbones.optimising.shutil.which", lambda _name: None)
    tiny = backbone(randomise(Misleading()), as_before=COMPILED)
    with caplog.at_level(logging.INFO):
        result = optimise(tiny, SHAPE, 10**6)
    assert result.way == PLAIN
    assert len(caplog.records) == 1
    assert "no C++ compiler (g++)" in caplog.text
    assert tiny(torch.randn(SHAPE)).shape == (3, 6)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda network, fewest: 1 / 0, "compiling failed with ZeroDivisionError"),
        (lambda network, fewest: lambda clips: network(clips) + 1, "compiling changed the features"),
        (lambda network, fewest: lambda clips: sum(network(clips) for _ in range(50)) / 50, "without gain"),
    ],
)
def test_a_compiler_that_fails_leaves_the_network_as_it_is(
    monkeypatch: pytest.MonkeyPatch, broken: object, message: str
) -> None:
    monkeypatch.setattr("extract.backbones.compiling.compiled", broken)
    tiny = backbone(randomise(Misleading()))
    clips = torch.randn(SHAPE)
    before = tiny(clips)
    result = optimise(tiny, SHAPE, 10**9)
    assert result.way == PLAIN
    assert message in result.note
    assert torch.equal(tiny(clips), before)


def test_the_first_call_decides_for_its_size() -> None:
    asked: list[tuple[Backbone, tuple[int, ...]]] = []
    device = torch.device("cpu")
    tiny = Backbone(info(), randomise(Misleading()), dim=6, device=device, before_size=lambda *a: asked.append(a))
    for shape in (SHAPE, (1, 3, 4, 16, 16), (2, 3, 4, 8, 8)):
        tiny(torch.randn(shape))
    assert asked == [(tiny, SHAPE), (tiny, (2, 3, 4, 8, 8))]


def test_compiled_takes_any_batch_and_layout_without_compiling_anew() -> None:
    """With the graph run as it is: what torch.compile would compile for is what is counted."""
    graphs = 0

    def count(module: torch.fx.GraphModule, _inputs: list[Tensor]) -> object:
        nonlocal graphs
        graphs += 1
        return module.forward

    network = tuned(randomise(Misleading()), info())
    clips = torch.randn(9, 3, 4, 16, 16)
    original = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch,
            "compile",
            lambda function, fullgraph, dynamic, options: original(
                function, backend=count, fullgraph=True, dynamic=dynamic
            ),
        )
        run = compiled(network, fewest=4)
    with torch.inference_mode():
        expected = network(clips)
        for layout in (clips, clips.contiguous(memory_format=torch.channels_last_3d), clips.clone()):
            for num_crops in (4, 9, 1, 5):
                found = run(layout[:num_crops])
                torch.testing.assert_close(found, expected[:num_crops], rtol=1e-4, atol=1e-5)
    assert graphs == 1


@pytest.mark.slow
@pytest.mark.parametrize("way", [COMPILED, OPENVINO])
def test_x3d_gets_a_faster_form_and_keeps_its_features(tmp_path: Path, way: str) -> None:
    if way == OPENVINO and not is_installed():
        pytest.skip("openvino is not installed")
    torch.set_num_threads(2)
    spec = PytorchVideoBackbone(kind="pytorchvideo", model="x3d_xs", weights={"random": 0})
    x3d = load_backbone(spec, Settings(), as_before=way)  # a busy machine may see no gain: that is not asked
    clips = torch.randn(8, 3, 4, 160, 160)
    before = x3d(clips)
    result = optimise(x3d, tuple(clips.shape), 10**7)
    assert result.way == way, result.note
    for num_crops in (8, 3, 1):
        torch.testing.assert_close(x3d(clips[:num_crops]), before[:num_crops], rtol=1e-4, atol=1e-6)
