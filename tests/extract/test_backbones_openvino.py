"""A network that OpenVINO runs gives the same features, whoever calls it; where it cannot be had, a line says why."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from extract.backbones import Backbone, BackboneInfo, load_backbone, openvino_network, optimise, optimising
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN
from extract.backbones.layers import LimitedBatch, MeanOverFrames, MeanOverSpaceTime
from extract.backbones.openvino_network import converted, is_installed
from extract.backbones.tuning import relative_difference, tuned
from extract.doctor import describe_openvino
from pipeline.recipe import ExportedBackbone
from pipeline.settings import Settings
from tests.support.reference_networks import randomise

pytestmark = pytest.mark.usefixtures("one_thread")
needs_openvino = pytest.mark.skipif(not is_installed(), reason="openvino is not installed")

SHAPE = (3, 3, 4, 16, 16)
NUM_PLANNED = 10**9


class Small(nn.Module):
    """A convolution with its norm, a skip, an activation, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6)
        self.second, self.act, self.pool = nn.Conv3d(6, 6, 1, groups=2), nn.SiLU(), MeanOverSpaceTime()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(x)))
        return self.pool(self.act(self.second(x)) + x)


class FixesBatch(Small):
    """Holds the number of crops of the batch that it is traced with: its trace is right for that number alone."""

    def forward(self, x: Tensor) -> Tensor:
        num_crops, *shape = (int(n) for n in x.shape)
        return super().forward(x.reshape(num_crops, -1).reshape(num_crops, *shape))


class DropsStill(Small):
    """A dropout that nobody switched off: no two runs are alike."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


def small_backbone(network: nn.Module | None = None, **changes: object) -> Backbone:
    built = randomise(Small()) if network is None else network
    info = BackboneInfo("small", "test", "small", "mean", (0, 0, 0), (1, 1, 1), dim=6)
    fields = {"build": lambda: built, **changes}
    return Backbone(info, tuned(built, info), dim=6, device=torch.device("cpu"), **fields)  # type: ignore[arg-type]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no clock decide: of networks as small as these either may be the faster one."""
    monkeypatch.setattr("extract.backbones.optimising._speedup", lambda *_: 1.5)


@needs_openvino
@pytest.mark.parametrize(
    "network",
    [
        Small(),
        MeanOverFrames(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        LimitedBatch(Small(), 2, 64),
        FixesBatch(),
    ],
)
def test_features_are_those_of_the_network_for_any_number_of_crops(network: nn.Module) -> None:
    randomise(network)
    clips = torch.randn(9, *SHAPE[1:])
    run = converted(network.eval(), clips[:3])
    with torch.inference_mode():
        expected = network(clips)
        for layout in (clips, clips.contiguous(memory_format=torch.channels_last_3d)):
            for num_crops in (3, 9, 2, 5, 1):
                assert relative_difference(run(layout[:num_crops]), expected[:num_crops]) < 1e-5
    assert run(clips[:0]).shape == (0, expected.shape[1])


@needs_openvino
def test_a_network_sees_as_many_crops_at_a_time_as_batches_will_hold(
    monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    seen: list[int] = []

    def counting(network: nn.Module, clips: Tensor, num_streams: int) -> openvino_network.Run:
        seen.append(len(clips))
        return converted(network, clips, num_streams)

    monkeypatch.setattr(openvino_network, "converted", counting)
    for num_crops in (1, 3, 100):
        backbone = small_backbone()
        assert backbone.takes_channels_last(SHAPE)
        assert optimise(backbone, (num_crops, *SHAPE[1:]), NUM_PLANNED).way == OPENVINO
        assert not backbone.takes_channels_last(SHAPE)
    assert seen == [1, 3, optimising.TIMED_CROPS]


@needs_openvino
def test_whoever_calls_gets_the_same_bytes() -> None:
    """Each stream computes alone: neither who else computes, nor the batch, changes a crop's features."""
    clips = torch.randn(12, *SHAPE[1:])
    run = converted(randomise(Small()).eval(), clips[:2], num_streams=2)
    expected = run(clips)
    with ThreadPoolExecutor(4) as threads:
        batches = [slice(k % 4, k % 4 + 1 + k % 3) for k in range(200)]
        found = list(threads.map(lambda part: run(clips[part]), batches))
    for part, features in zip(batches, found, strict=True):
        assert torch.equal(features, expected[part])


@needs_openvino
def test_an_exported_program_is_converted_too(program: tuple[Path, str], quick: None) -> None:
    path, sha256 = program
    spec = ExportedBackbone(
        kind="exported", weights={"path": str(path), "sha256": sha256}, num_frames=4, size_px=16
    )  # fmt: skip
    backbone = load_backbone(spec, Settings(), expected_crops=NUM_PLANNED)
    plain = load_backbone(spec, Settings())
    clips = torch.randn(SHAPE)
    torch.testing.assert_close(backbone(clips), plain(clips), rtol=1e-4, atol=1e-6)
    assert (backbone.way, plain.way) == (OPENVINO, PLAIN)


@needs_openvino
def test_it_is_chosen_where_the_work_repays_it(quick: None) -> None:
    little, much = small_backbone(), small_backbone()
    assert optimise(little, SHAPE, 10).way == PLAIN
    result = optimise(much, SHAPE, NUM_PLANNED)
    assert (little.way, much.way, result.way) == (PLAIN, OPENVINO, OPENVINO)
    assert "converted for OpenVINO" in result.note
    clips = torch.randn(SHAPE)
    torch.testing.assert_close(much(clips), little(clips), rtol=1e-4, atol=1e-6)


def test_trying_it_costs_no_more_runs_of_a_large_network_than_are_reckoned_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of large crops hold one."""
    seen: list[int] = []

    class Counted(Small):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    def traced(network: nn.Module, clips: Tensor, _num_streams: int) -> openvino_network.Run:
        for _ in range(2):  # what reading a network takes, in crops of the tuned one
            network(clips)
        return lambda clips: torch.cat([network(part) for part in clips.split(1)])

    monkeypatch.setattr(openvino_network, "is_installed", lambda: True)
    monkeypatch.setattr(openvino_network, "converted", traced)
    backbone = small_backbone(randomise(Counted()).eval(), as_before=OPENVINO)
    seen.clear()
    assert optimise(backbone, (1, *SHAPE[1:]), NUM_PLANNED).way == OPENVINO
    assert sum(seen) <= optimising.CONVERT_CROPS + 4  # those that are timed whatever follows


@needs_openvino
@pytest.mark.parametrize(
    ("network", "message"),
    [
        (DropsStill(), "changed the features"),
        (None, "failed with NotFoundError: its file is gone"),
    ],
)
def test_what_cannot_be_converted_is_run_as_it_is(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module | None, message: str
) -> None:
    from pipeline.errors import NotFoundError

    def gone() -> nn.Module:
        raise NotFoundError("its file is gone")

    monkeypatch.setattr("extract.backbones.optimising.shutil.which", lambda _name: None)  # nor can it be compiled
    backbone = small_backbone(randomise(network).eval()) if network is not None else small_backbone(build=gone)
    clips = torch.randn(SHAPE)
    torch.manual_seed(0)
    before = backbone(clips)
    result = optimise(backbone, SHAPE, NUM_PLANNED)
    assert result.way == backbone.way == PLAIN
    assert message in result.note
    torch.manual_seed(0)
    assert torch.equal(backbone(clips), before)


@needs_openvino
def test_one_that_is_slower_is_dropped_unless_it_made_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extract.backbones.optimising._speedup", lambda *_: 0.5)
    monkeypatch.setattr("extract.backbones.optimising.shutil.which", lambda _name: None)
    result = optimise(small_backbone(), SHAPE, NUM_PLANNED)
    assert result.way == PLAIN
    assert "without gain (0.50x)" in result.note
    assert optimise(small_backbone(as_before=OPENVINO), SHAPE, 1).way == OPENVINO


@pytest.mark.parametrize(
    ("as_before", "has_openvino", "num_crops", "tried", "said"),
    [
        (None, True, NUM_PLANNED, [OPENVINO, COMPILED], "no luck; no luck"),
        (None, False, NUM_PLANNED, [COMPILED], "OpenVINO would save"),
        (None, True, 1, [], "OpenVINO would save 0 s"),
        (None, False, 1, [], "compiling would save 0 s"),
        (PLAIN, True, NUM_PLANNED, [], "as for the shards that are there"),
        (COMPILED, True, 1, [COMPILED], "no luck"),
        (OPENVINO, True, 1, [OPENVINO], "no luck"),
        (OPENVINO, False, NUM_PLANNED, [], "were made with OpenVINO: pip install"),
        ("abacus", True, NUM_PLANNED, [], "made another way, 'abacus'"),
    ],
)
def test_which_forms_are_tried(
    monkeypatch: pytest.MonkeyPatch,
    as_before: str | None,
    has_openvino: bool,
    num_crops: int,
    tried: list[str],
    said: str,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("extract.backbones.optimising._tried", lambda _b, way, *_: asked.append(way) or "no luck")
    monkeypatch.setattr(openvino_network, "is_installed", lambda: has_openvino)
    monkeypatch.setattr("extract.backbones.optimising.shutil.which", lambda name: name)
    result = optimise(small_backbone(as_before=as_before), SHAPE, num_crops)
    assert (result.way, asked) == (PLAIN, tried)
    assert said in result.note


@pytest.mark.parametrize(
    ("has_openvino", "num_crops", "said"),
    [
        (True, NUM_PLANNED, "OpenVINO may save"),
        (False, NUM_PLANNED, "compiling may save"),
        (True, optimising.HINT_CROPS + 1, None),
        (True, optimising.HINT_CROPS - 1, None),
    ],
)
def test_whoever_goes_on_with_a_set_that_a_small_run_began_hears_what_it_costs(
    monkeypatch: pytest.MonkeyPatch, has_openvino: bool, num_crops: int, said: str | None
) -> None:
    monkeypatch.setattr(openvino_network, "is_installed", lambda: has_openvino)
    result = optimise(small_backbone(as_before=PLAIN), SHAPE, num_crops)
    assert result.way == PLAIN
    as_it_is, _, hint = result.note.partition(" (they were begun so); ")
    assert as_it_is == "runs uncompiled, as for the shards that are there"
    if said is None:
        assert hint == ""
    else:
        assert hint.startswith(f"for {num_crops} crops at ")
        assert said in hint
        assert "under another name of the backbone, or after `scale remove --features`" in hint
        assert "\n" not in result.note


def test_who_follows_forgets_what_was_decided_otherwise() -> None:
    asked: list[str | None] = []
    backbone = small_backbone(before_size=lambda backbone, _shape: asked.append(backbone.as_before))
    backbone.prepare(SHAPE)
    for way in (PLAIN, COMPILED, COMPILED):
        backbone.follow(way)
        backbone(torch.zeros(SHAPE))
    assert asked == [None, COMPILED]  # plain it was, and one that cannot be compiled is not tried at every shard


@needs_openvino
def test_nothing_is_told_to_anybody(tmp_path: Path) -> None:
    """In a process of its own, which sees every connection that is tried and every file in its home."""
    code = """
        import sys
        tried = []
        sys.addaudithook(lambda event, _: tried.append(event) if event.startswith(("socket.", "urllib.")) else None)
        import torch
        from extract.backbones.openvino_network import converted
        converted(torch.nn.Conv3d(3, 4, 2).eval(), torch.zeros(1, 3, 4, 8, 8))(torch.zeros(1, 3, 4, 8, 8))
        told = sorted(name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module)
        assert not told and not tried, (told, tried)
        """
    environment = os.environ | {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # there it would be silent by itself
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["there", "not there", "broken"])
def test_the_doctor_says_whether_it_runs_here(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def broken(*_: object) -> object:
        raise ImportError("libopenvino.so: cannot open shared object file\nand more")

    if what == "there" and not is_installed():
        pytest.skip("openvino is not installed")
    monkeypatch.setattr(openvino_network, "is_installed", lambda: what != "not there")
    if what == "broken":
        monkeypatch.setattr(openvino_network, "import_openvino", broken)
    works, found, fix = describe_openvino()
    said = {"there": "networks run by it", "not there": "not installed", "broken": "cannot open shared object file"}
    assert works == (what == "there")
    assert said[what] in found
    assert "pip install 'scale-pipeline[openvino]'" in fix
