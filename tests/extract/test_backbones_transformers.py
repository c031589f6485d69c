"""SVT and VideoMAE from their published key formats, against independent networks with those names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from extract.backbones import describe_backbone, load_backbone
from extract.backbones.positions import resize_grid, sinusoid_table
from extract.backbones.svt import build_svt, svt_info, svt_state
from extract.backbones.videomae import build_videomae, is_finetuned, videomae_info, videomae_state
from extract.backbones.weights import load_strict, read_state_dict
from pipeline.errors import InvalidInputError, MissingDependencyError, WeightsError
from pipeline.recipe import TransformerBackbone
from pipeline.settings import Settings
from tests.support.reference_networks import Svt, VideoMae, randomise, slow_sinusoids

pytestmark = pytest.mark.usefixtures("one_thread")

needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason='transformers is not installed; pip install "scale-pipeline[transformers]"',
)
SHALLOW: dict[str, Any] = {"num_hidden_layers": 2}
NARROW: dict[str, Any] = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 384}


def spec(kind: str, **options: Any) -> TransformerBackbone:
    return TransformerBackbone(kind=kind, weights={"random": 0}, **options)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.fixture(scope="module")
def svt() -> tuple[Svt, Tensor, Tensor]:
    network = randomise(Svt(depth=2), seed=1)
    clips = torch.randn(1, 3, 8, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return network, clips, network(clips)


@needs_transformers
@pytest.mark.parametrize("prefix", ["", "backbone.", "module.backbone.", "model."])
def test_svt_equals_its_own_code(svt: tuple[Svt, Tensor, Tensor], prefix: str) -> None:
    reference, clips, expected = svt
    info = svt_info(spec("svt"))
    network = build_svt(info, num_layers=2).eval()
    state = prefixed(reference.state_dict(), prefix)
    if "backbone" in prefix:  # a DINO head stands beside the backbone
        state |= prefixed({"head.mlp.0.weight": torch.zeros(3)}, prefix.removesuffix("backbone."))
    load_strict(network, svt_state(state, info), what="svt")
    with torch.inference_mode():
        found = network(clips)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_dino_files_hold_two_networks(tmp_path: Path) -> None:
    path = tmp_path / "svt.pth"
    torch.save({"student": {"backbone.a": torch.ones(1)}, "teacher": {"backbone.a": torch.zeros(1)}, "epoch": 1}, path)
    assert read_state_dict(path, "online")["backbone.a"] == 1
    assert read_state_dict(path, "momentum")["backbone.a"] == 0
    torch.save({"student": {"backbone.a": torch.ones(1)}}, path)
    with pytest.raises(WeightsError, match="`student` alone"):
        read_state_dict(path, "momentum")


@needs_transformers
def test_svt_for_more_frames_and_another_size(svt: tuple[Svt, Tensor, Tensor]) -> None:
    """SCALE feeds the 8-frame network 16 frames: embeddings between two known ones lie between them."""
    info = svt_info(spec("svt", num_frames=16, size_px=64))
    state = svt_state(svt[0].state_dict(), info)
    time = state["network.embeddings.time_embeddings"]
    assert time.shape == (1, 16, 768)
    known = svt[0].time_embed
    torch.testing.assert_close(time[:, 1], 0.75 * known[:, 0] + 0.25 * known[:, 1])
    assert state["network.embeddings.position_embeddings"].shape == (1, 17, 768)
    network = build_svt(info, num_layers=2)
    load_strict(network, state, what="svt")
    assert network.eval()(torch.zeros(1, 3, 16, 64, 64)).shape == (1, 768)


@needs_transformers
@pytest.mark.parametrize(("prefix", "finetuned"), [("encoder.", False), ("", True), ("module.", True)])
def test_videomae_equals_its_own_code(prefix: str, finetuned: bool) -> None:
    reference = randomise(VideoMae(finetuned=finetuned, dim=96, heads=4), seed=2)
    state = prefixed(reference.state_dict(), prefix)
    if prefix == "encoder.":
        state |= {"mask_token": torch.zeros(1), "decoder.blocks.0.norm1.weight": torch.zeros(1)}
        state |= {"encoder_to_decoder.weight": torch.zeros(1)}
    assert is_finetuned(state) == finetuned
    network = build_videomae(videomae_info(spec("videomae")), finetuned=finetuned, **SHALLOW, **NARROW).eval()
    load_strict(network, videomae_state(state, network.state_dict()), what="videomae")
    clips = torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = reference(clips), network(clips)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@needs_transformers
def test_videomae_from_a_hugging_face_file() -> None:
    """The names that transformers itself writes, its older spelling of the query's bias included."""
    import transformers

    config = transformers.VideoMAEConfig(**SHALLOW, image_size=32, num_frames=4, use_mean_pooling=True, num_labels=3)
    source = randomise(transformers.VideoMAEForVideoClassification(config), seed=3)
    state = {
        key.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): value
        for key, value in source.state_dict().items()
    }
    assert is_finetuned(state)
    info = videomae_info(spec("videomae", num_frames=4, size_px=32))
    network = build_videomae(info, finetuned=True, **SHALLOW).eval()
    load_strict(network, videomae_state(state, network.state_dict()), what="videomae")
    network.network.embeddings.position_embeddings = source.videomae.embeddings.position_embeddings
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.inference_mode():
        tokens = source.videomae(clips.transpose(1, 2)).last_hidden_state
        expected = source.fc_norm(tokens.mean(1))
        torch.testing.assert_close(network(clips), expected, rtol=1e-4, atol=1e-4)


def test_sinusoids_equal_the_published_table() -> None:
    np.testing.assert_allclose(sinusoid_table(300, 64), slow_sinusoids(300, 64), atol=1e-6)


def test_resized_grid_keeps_a_plane_and_an_equal_grid() -> None:
    tokens = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 32, 1)
    assert resize_grid(tokens, (2, 4, 4), (2, 4, 4)) is tokens
    wide = resize_grid(tokens, (2, 4, 4), (2, 4, 8)).reshape(2, 4, 8)
    assert (wide.diff(dim=2) >= 0).all()  # still rises along the width
    assert (wide.diff(dim=0) == 16).all()  # and by one frame's tokens along time


@needs_transformers
def test_whole_path_from_a_recipe_draws_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    small = spec("svt", num_frames=2, size_px=32)
    backbone = load_backbone(small, Settings())
    assert torch.equal(before, torch.get_rng_state())
    clips = torch.randn(2, 3, 2, 32, 32)
    assert backbone(clips).shape == (2, 768)
    assert not backbone.is_trained
    assert backbone.description() == describe_backbone(small, Settings()).description()


def test_sizes_that_patches_do_not_tile_are_refused() -> None:
    for kind, options in (("svt", {"size_px": 100}), ("videomae", {"size_px": 100}), ("videomae", {"num_frames": 5})):
        with pytest.raises(InvalidInputError, match="multiple of"):
            describe_backbone(spec(kind, **options), Settings())
    with pytest.raises(InvalidInputError, match="size base"):
        describe_backbone(spec("svt", size="large"), Settings())


def test_without_transformers_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"scale-pipeline\[transformers\]"):
        load_backbone(spec("svt"), Settings())


def test_foreign_keys_are_named() -> None:
    with pytest.raises(WeightsError, match=r"blocks\.0\.mixer\.weight"):
        svt_state({"blocks.0.mixer.weight": torch.zeros(1)}, svt_info(spec("svt")))
    with pytest.raises(WeightsError, match=r"blocks\.0\.mixer\.weight"):
        videomae_state({"blocks.0.mixer.weight": torch.zeros(1)}, {})
