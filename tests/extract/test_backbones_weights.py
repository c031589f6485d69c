"""Weights files: hashed before they are read, never unpickled, loaded whole or not at all."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from extract.backbones import describe_backbone, spread_frames
from extract.backbones.weights import load_strict, read_state_dict, resolve_weights
from pipeline.compute.seeds import own_random
from pipeline.errors import NotFoundError, WeightsError
from pipeline.fingerprint import hash_file
from pipeline.recipe import PytorchVideoBackbone, WeightsFile
from pipeline.settings import Settings


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.pyth"
    torch.save({"model_state": {"a": torch.zeros(1)}, "cfg": Bomb(marker)}, path)
    with pytest.raises(WeightsError, match="re-save the state dict alone as safetensors"):
        read_state_dict(path)
    path.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(WeightsError):
        read_state_dict(path)
    assert not marker.exists()


def test_the_hash_is_checked_before_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.pyth"
    path.write_bytes(b"not weights at all")
    spec = PytorchVideoBackbone(kind="pytorchvideo", model="x3d_xs", weights={"path": str(path), "sha256": "0" * 64})
    with pytest.raises(WeightsError, match=f"expected sha256 {'0' * 64}.*found {hash_file(path)}"):
        describe_backbone(spec, Settings())
    with pytest.raises(NotFoundError, match="no such file"):
        resolve_weights(WeightsFile(path="absent.pyth", sha256="0" * 64), Settings(), what="x3d_xs")


def test_a_file_that_changes_is_hashed_anew(tmp_path: Path) -> None:
    path = tmp_path / "w.pyth"
    path.write_bytes(b"one")
    weights = WeightsFile(path=str(path), sha256=hash_file(path))
    assert resolve_weights(weights, Settings(), what="x") == path
    path.write_bytes(b"other")
    with pytest.raises(WeightsError):
        resolve_weights(weights, Settings(), what="x")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken zip", b"\x80\x04."])
@pytest.mark.parametrize("name", ["w.pyth", "w.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, content: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_state_dict(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["w.pth", "old.pth", "w.safetensors"])
@hypothesis.settings(max_examples=20, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@given(data=st.data())
def test_any_change_of_a_weights_file_is_read_or_named(tmp_path: Path, name: str, data: st.DataObject) -> None:
    tensors = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}
    path = tmp_path / name
    if name == "w.safetensors":
        save_file(tensors, path)
    else:
        content = {"model_state": tensors, "epoch": 3}
        torch.save(content, path, _use_new_zipfile_serialization=name == "w.pth")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    try:
        outcome = all(isinstance(tensor, torch.Tensor) for tensor in read_state_dict(path).values())
    except WeightsError as error:
        outcome = name in str(error)
    assert outcome


def test_containers_and_safetensors_hold_the_same(tmp_path: Path) -> None:
    tensors = {"a.weight": torch.arange(3.0)}
    save_file(tensors, tmp_path / "w.safetensors")
    for i, wrap in enumerate(({"model_state": tensors}, {"state_dict": {"model": tensors}}, tensors)):
        torch.save(wrap, tmp_path / f"{i}.pth")
        assert torch.equal(read_state_dict(tmp_path / f"{i}.pth")["a.weight"], tensors["a.weight"])
    assert torch.equal(read_state_dict(tmp_path / "w.safetensors")["a.weight"], tensors["a.weight"])


def test_no_tensors_is_an_error(tmp_path: Path) -> None:
    torch.save({"model_state": {"epoch": 3}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="without any"):
        read_state_dict(tmp_path / "w.pth")


def test_loading_is_whole_or_not_at_all() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    state = {**before, "0.weight": torch.ones(4, 2), "extra": torch.zeros(1)}
    del state["0.bias"]
    with pytest.raises(WeightsError) as caught:
        load_strict(network, state, what="test")
    for part in ("1 missing: 0.bias", "1 unexpected: extra", "0.weight: expected (3, 2), found (4, 2)"):
        assert part in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_batch_counters_may_be_absent() -> None:
    network = nn.BatchNorm1d(3)
    state = {k: v + 1 for k, v in network.state_dict().items() if k != "num_batches_tracked"}
    load_strict(network, state, what="test")
    assert network.running_mean is not None
    assert network.running_mean.sum() == 3


def test_seeded_restores_the_generator_even_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), own_random(3):
        torch.rand(5 // 0)
    assert torch.equal(before, torch.get_rng_state())


@given(st.integers(1, 200), st.integers(1, 200))
def test_spread_frames_are_even_and_keep_both_ends(available: int, wanted: int) -> None:
    frames = spread_frames(available, wanted)
    assert len(frames) == wanted
    assert frames == sorted(frames)
    assert frames[0] == 0
    assert frames[-1] == (available - 1 if wanted > 1 else 0)
    steps = {b - a for a, b in pairwise(frames)}
    assert not steps or max(steps) - min(steps) <= 1
