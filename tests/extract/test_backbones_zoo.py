"""The pytorchvideo zoo without its heads: what the classifier would have seen, from a seed, on any size."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extract.backbones import describe_backbone, load_backbone
from extract.backbones.torchvision_standin import import_pytorchvideo_models
from extract.backbones.zoo import ZOO, resize_positions
from pipeline.errors import MissingDependencyError, ShapeMismatchError
from pipeline.recipe import PytorchVideoBackbone
from pipeline.settings import Settings

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, tuple[int, int]] = {  # frames, pixels: as small as the network allows
    "slow_r50": (4, 64), "c2d_r50": (4, 64), "i3d_r50": (4, 64), "slowfast_r50": (8, 64), "x3d_xs": (4, 64),
    "x3d_s": (4, 64), "x3d_m": (4, 64), "x3d_l": (4, 64), "r2plus1d_r50": (8, 64), "csn_r101": (8, 64),
    "mvit_base_16": (2, 64), "mvit_base_16x4": (4, 64), "mvit_base_32x3": (4, 64),
}  # fmt: skip
QUICK = {"x3d_xs", "slow_r50", "slowfast_r50", "mvit_base_16", "mvit_base_16x4"}


def spec(model: str, seed: int = 7, **options: Any) -> PytorchVideoBackbone:
    return PytorchVideoBackbone(kind="pytorchvideo", model=model, weights={"random": seed}, **options)


def original(model: str, seed: int, frames: int, size: int) -> nn.Module:
    """The zoo's network with its head, drawn as the recipe says, its pooling made to fit small crops."""
    hub = import_pytorchvideo_models().hub
    options = {}
    if model.startswith("mvit"):
        options = {"spatial_size": size, "temporal_size": 1 if model == "mvit_base_16" else frames}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = getattr(hub, model)(**options).eval()
    if model.startswith("slowfast"):
        network.blocks[5].pool = nn.ModuleList([nn.AdaptiveAvgPool3d(1), nn.AdaptiveAvgPool3d(1)])
    elif model.startswith("x3d"):
        network.blocks[5].pool.pool = nn.AdaptiveAvgPool3d(1)
    elif not model.startswith("mvit"):
        network.blocks[-1].pool = nn.AdaptiveAvgPool3d(1)
    return network


def seen_by_classifier(network: nn.Module, inputs: Any) -> Tensor:
    head = network.head if hasattr(network, "head") else network.blocks[-1]
    seen: list[Tensor] = []
    hook = head.proj.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.inference_mode():
        network(inputs)
    hook.remove()
    return seen[0].reshape(seen[0].shape[0], -1)


@pytest.mark.parametrize("model", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in ZOO])
def test_features_are_what_the_classifier_sees(model: str) -> None:
    frames, size = SMALL[model]
    fixed = {"num_frames": frames, "size_px": size} if model.startswith("mvit") else {}
    backbone = load_backbone(spec(model, **fixed), Settings())
    clips = torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(0))
    network = original(model, 7, frames, size)
    if model == "mvit_base_16":
        per_frame = [seen_by_classifier(network, clips[:, :, t]) for t in range(frames)]
        expected = torch.stack(per_frame).mean(0)
    elif model == "slowfast_r50":
        expected = seen_by_classifier(network, [clips[:, :, [0, 7]], clips])
    else:
        expected = seen_by_classifier(network, clips)
    found = backbone(clips)
    assert found.shape == (2, ZOO[model].dim)
    assert found.dtype == torch.float32
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert backbone.description() == describe_backbone(spec(model, **fixed), Settings()).description()


def test_seed_decides_and_the_global_generator_stays() -> None:
    before = torch.get_rng_state()
    clips = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    first, again, other = (load_backbone(spec("x3d_xs", seed), Settings())(clips) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_description_tells_what_changes_the_numbers() -> None:
    plain = describe_backbone(spec("x3d_xs"), Settings())
    assert not plain.is_trained
    assert plain.dim == 2048
    for change in ({"mean": (0.5, 0.5, 0.5)}, {"std": (0.2, 0.2, 0.2)}, {"size_px": 128}, {"num_frames": 8}):
        assert describe_backbone(spec("x3d_xs", **change), Settings()).description() != plain.description()
    assert describe_backbone(spec("x3d_xs", 8), Settings()).description() != plain.description()


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("x3d_xs", (1, 3, 64, 64), r"shape \(B, 3, T, H, W\)"),
        ("x3d_xs", (1, 1, 4, 64, 64), r"shape \(B, 3, T, H, W\)"),
        ("slowfast_r50", (1, 3, 6, 64, 64), "that 4 divides, found 6"),
        ("mvit_base_16x4", (1, 3, 8, 224, 224), "expected 16 frames a crop, found 8"),
        ("mvit_base_16x4", (1, 3, 16, 256, 256), "expected crops of 224 x 224 px, found 256 x 256"),
    ],
)
def test_crops_that_do_not_fit(model: str, shape: tuple[int, ...], message: str) -> None:
    from extract.backbones import check_clip_shape

    with pytest.raises(ShapeMismatchError, match=message):
        check_clip_shape(describe_backbone(spec(model), Settings()), shape)


def test_uint8_crops_are_refused() -> None:
    backbone = load_backbone(spec("x3d_xs"), Settings())
    with pytest.raises(ShapeMismatchError, match=r"expected float32 crops, found torch\.uint8"):
        backbone(torch.zeros(1, 3, 4, 64, 64, dtype=torch.uint8))


def test_mvit_position_embeddings_fit_another_size() -> None:
    network = original("mvit_base_16x4", 0, 8, 64)
    state = {
        "cls_positional_encoding.pos_embed_spatial": torch.randn(1, 56 * 56, 96),
        "cls_positional_encoding.pos_embed_temporal": torch.randn(1, 8, 96),
    }
    resized = resize_positions(state, network)
    assert resized["cls_positional_encoding.pos_embed_spatial"].shape == (1, 16 * 16, 96)
    assert resized["cls_positional_encoding.pos_embed_temporal"].shape == (1, 4, 96)


def test_import_is_cheap_and_leaves_no_torchvision_behind() -> None:
    program = (
        "import sys, extract.backbones as b; assert 'torch' not in sys.modules\n"
        "from extract.backbones.torchvision_standin import import_pytorchvideo_models as f; f()\n"
        "import importlib.util, sys\n"
        "standin = sys.modules.get('torchvision')\n"
        "assert standin is None or standin.__file__, 'the stand-in stayed'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_broken_torchvision_is_stood_in_for(tmp_path: Any) -> None:
    """As beside a CPU torch: the package is there and raises RuntimeError while it is imported."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from extract.backbones.torchvision_standin import import_pytorchvideo_models as f\n"
        "assert f().hub.x3d_xs\n"
        "assert 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_without_pytorchvideo_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "extract.backbones.torchvision_standin._import_models",
        lambda: (_ for _ in ()).throw(ImportError("No module named 'pytorchvideo'")),
    )
    with pytest.raises(MissingDependencyError, match="pip install pytorchvideo"):
        load_backbone(spec("x3d_xs"), Settings())
