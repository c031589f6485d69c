"""Networks to pretrain: built at a small size, kept as a file, and built again from what the file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from extract.backbones.encoders import build_encoder, save_memory
from extract.backbones.small_network import GroupNorm3d
from extract.backbones.stored import build_stored, encode_network, read_description
from pipeline.compute.seeds import own_random, seeded
from pipeline.errors import InvalidInputError, WeightsError
from pipeline.recipe import EncoderSpec

SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 8, "depth": 2},
    "small, groups": {"width": 8, "norm": "temporal_group"},
    "slow": {"width": 8}, "c2d": {"width": 8}, "i3d": {"width": 8, "norm": "group"}, "r2plus1d": {"width": 8},
    "csn": {"width": 8, "norm": "group"}, "x3d": {"width": 12, "depth": 1, "norm": "group"},
    "mvit": {"width": 16, "depth": 4},
}  # fmt: skip
QUICK = ("small", "small, groups")


def there_and_back(name: str, folder: Path) -> None:
    spec = EncoderSpec.model_validate({"network": name.split(",")[0], "size_px": 32, **SIZES[name]})
    with own_random(3):
        network = build_encoder(spec, 8).eval()
    clips = torch.randn((2, 3, 8, 32, 32), generator=seeded(0))
    with torch.inference_mode():
        features = network(clips)
    assert features.ndim == 2
    file = folder / "weights.safetensors"
    file.write_bytes(encode_network(network, spec, 8, features.shape[1]))
    assert read_description(file) == (spec, 8, features.shape[1])
    with torch.inference_mode():
        assert torch.equal(build_stored(file, what=name)(clips), features)


@pytest.mark.parametrize("name", QUICK)
def test_a_small_network_is_read_back_as_it_was(name: str, tmp_path: Path) -> None:
    there_and_back(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SIZES if name not in QUICK])
def test_every_builder_makes_a_small_network_that_is_read_back(name: str, tmp_path: Path) -> None:
    there_and_back(name, tmp_path)


def test_a_norm_by_frame_does_not_mix_moments() -> None:
    norm = GroupNorm3d(8, by_frame=True)
    x = torch.randn((1, 8, 4, 5, 5), generator=seeded(0))
    other = x.clone()
    other[:, :, 3] *= 100
    assert torch.allclose(norm(x)[:, :, :3], norm(other)[:, :, :3])
    whole = GroupNorm3d(8)
    assert not torch.allclose(whole(x)[:, :, :3], whole(other)[:, :, :3])


@pytest.mark.slow
def test_activations_that_are_computed_again_give_the_same_gradients() -> None:
    clips = torch.randn((2, 3, 4, 32, 32), generator=seeded(0))
    gradients = []
    for saving in (False, True):
        with own_random(1):
            network = build_encoder(EncoderSpec(width=8, norm="group", size_px=32), 4)
        (save_memory(network) if saving else network)(clips).square().sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True) if a is not None)


def test_a_size_that_nobody_builds_and_a_file_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="depth 50 or 101"):
        build_encoder(EncoderSpec(network="slow", depth=18), 8)
    for content in (b"", b"\xff" * 64, (8).to_bytes(8, "little") + b"{}      ", json.dumps({"a": 1}).encode()):
        file = tmp_path / "odd.safetensors"
        file.write_bytes(content)
        with pytest.raises(WeightsError, match="scale pretrain"):
            read_description(file)
