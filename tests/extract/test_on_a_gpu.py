"""A GPU sees the pixels that a CPU sees, and its networks say the same of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from extract import auditing
from extract.backbones import load_backbone
from extract.pixels.colour import ColourDraw, augment_colours
from extract.pixels.streams import apply_stream
from extract.run import shard_runner
from extract.run.shard_runner import decoders_beside
from pipeline.recipe import BackboneSpec, Stream
from pipeline.settings import Settings
from tests.support.extraction import extract_all, read_everything, tiny_recipe

GPU = "cuda"
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "x3d_xs": ({"kind": "pytorchvideo", "model": "x3d_xs"}, (4, 64)),
    "slow_r50": ({"kind": "pytorchvideo", "model": "slow_r50"}, (4, 64)),
    "slowfast_r50": ({"kind": "pytorchvideo", "model": "slowfast_r50"}, (8, 64)),
    "mvit_base_16x4": ({"kind": "pytorchvideo", "model": "mvit_base_16x4", "num_frames": 4, "size_px": 64}, (4, 64)),
    "mvit_base_16": ({"kind": "pytorchvideo", "model": "mvit_base_16", "size_px": 64}, (2, 64)),
    "svt": ({"kind": "svt"}, (8, 224)),
    "videomae": ({"kind": "videomae"}, (16, 224)),
}


def test_beside_a_gpu_all_cores_but_one_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    """One decoding process kept sixteen cores and a GPU waiting."""
    for cores, gpus, expected in ((16, 1, 15), (1, 1, 1), (64, 8, 7), (256, 1, shard_runner.MAX_DECODERS)):
        monkeypatch.setattr(shard_runner, "num_cores", lambda cores=cores: cores)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        assert decoders_beside(torch.device(GPU), 1) == expected
    assert [decoders_beside(torch.device("cpu"), threads) for threads in (1, 2, 16)] == [1, 1, 8]


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.cpu() - expected).norm() / expected.norm())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_say_the_same(name: str) -> None:
    given, (frames, side) = NETWORKS[name]
    clips = torch.randn((3, 3, frames, side, side), generator=torch.Generator().manual_seed(0))
    expected = None
    for precision, tolerance in (("float32", 1e-3), ("float16", 1e-2), ("bfloat16", 5e-2)):
        spec = TypeAdapter(BackboneSpec).validate_python({**given, "weights": {"random": 0}, "precision": precision})
        if expected is None:
            expected = load_backbone(spec, Settings(), "cpu")(clips)
        backbone = load_backbone(spec, Settings(), GPU, expected_crops=10**6)
        assert relative(backbone(clips.to(GPU)), expected) <= tolerance, precision
        assert relative(backbone(clips[:1].to(GPU)), expected[:1]) <= tolerance, precision


@pytest.mark.gpu
@pytest.mark.parametrize("stream", ["tgrad", "foreground", "flow", "flow_turned"])
def test_streams_are_the_same(stream: Stream) -> None:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand((2, 5, 3, 8, 8), generator=rng)
    smooth = torch.nn.functional.interpolate(coarse.flatten(0, 1), size=64, mode="bilinear").unflatten(0, (2, 5))
    clips = (smooth * 255).to(torch.uint8).permute(0, 1, 3, 4, 2)
    found = apply_stream(stream, clips[:, 1:].to(GPU), clips[:, :-1].to(GPU)).cpu().float()
    expected = apply_stream(stream, clips[:, 1:], clips[:, :-1]).float()
    assert (found - expected).abs().gt(1e-3).float().mean() <= 0.01  # squares at the very median may fall either way


@pytest.mark.gpu
@pytest.mark.parametrize("draw", [
    ColourDraw(order=(0, 1, 2, 3), factors=(1.2, 0.8, 1.3, 0.1), is_grey=False, blur_sigma=0.0),
    ColourDraw(order=(), factors=(1.0, 1.0, 1.0, 0.0), is_grey=True, blur_sigma=1.5),
], ids=["jitter", "grey and blurred"])  # fmt: skip
def test_colours_are_the_same(draw: ColourDraw) -> None:
    clip = torch.randint(0, 256, (4, 3, 48, 48), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    difference = augment_colours(clip.to(GPU), draw).cpu().int() - augment_colours(clip, draw).int()
    assert difference.abs().max() <= 1


@pytest.mark.gpu
def test_a_run_on_a_gpu_stores_what_a_run_on_a_cpu_stores(program: Any, videos: Path, tmp_path: Path) -> None:
    stores = {}
    for device in ("cpu", GPU):
        recipe = tiny_recipe(program, precision="float32")
        stores[device], report = extract_all(recipe, tmp_path / device, Settings(data=videos, device=device))
        assert report.did["shards_done"] > 0
    ours, theirs = (read_everything(stores[device], recipe) for device in (GPU, "cpu"))
    for label, expected in theirs.items():
        for what in ("geometry", "valid", "status"):
            np.testing.assert_array_equal(ours[label][what], expected[what])
        np.testing.assert_allclose(ours[label]["values"], expected["values"], atol=5e-3)
    again = auditing.audit(stores[GPU], "set", "grid", "tiny", Settings(data=videos, device=GPU), num_crops=4)
    assert again.is_ok, again.summary()
