"""SVT: TimeSformer ViT-B/16 with divided space-time attention, from kahnchana/svt's checkpoints.

The network is transformers' ``TimesformerModel``; TimeSformer files of
PySlowFast have the same names and load too. Feature: the class token after
the last norm (Ranasinghe et al., CVPR 2022; SCALE reads the same).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from extract.backbones.checkpoint_keys import strip_prefix
from extract.backbones.interface import KINETICS_MEAN, KINETICS_STD, BackboneInfo
from pipeline.errors import InvalidInputError, MissingDependencyError, WeightsError
from pipeline.recipe import TransformerBackbone

if TYPE_CHECKING:
    import torch
    from torch import nn

PATCH_PX = 16
NATIVE_FRAMES = 8
NATIVE_SIZE_PX = 224
NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.([\w.]+?)\.(weight|bias)")


def svt_info(spec: TransformerBackbone) -> BackboneInfo:
    """Describe an SVT backbone; the weights are filled in by the caller.

    Raises
    ------
    InvalidInputError
        If the size is no multiple of the patch, or the recipe asks for ViT-L.
    """
    if spec.size != "base":
        raise InvalidInputError(f"svt: expected size base (ViT-B/16 is what was published), found {spec.size}")
    size_px = spec.size_px or NATIVE_SIZE_PX
    check_multiple("svt", "size_px", size_px, PATCH_PX)
    return BackboneInfo(
        name="svt",
        kind="svt",
        model="timesformer divided space-time ViT-B/16",
        readout="class token after the last norm",
        mean=spec.mean or KINETICS_MEAN,
        std=spec.std or KINETICS_STD,
        dim=768,
        num_frames=spec.num_frames or NATIVE_FRAMES,
        size_px=size_px,
        openvino_gain=1.05,
    )


def build_svt(info: BackboneInfo, num_layers: int = 12) -> nn.Module:
    """Build the network: (B, 3, T, H, W) -> (B, 768).

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.
    """
    transformers = import_transformers("svt")

    from extract.backbones.transformer_layers import FramesFirst

    config = transformers.TimesformerConfig(
        image_size=info.size_px, patch_size=PATCH_PX, num_frames=info.num_frames, num_hidden_layers=num_layers,
        layer_norm_eps=1e-6, attention_type="divided_space_time",
    )  # fmt: skip
    return FramesFirst(transformers.TimesformerModel(config), readout="first")


def svt_state(state: Mapping[str, torch.Tensor], info: BackboneInfo) -> dict[str, torch.Tensor]:
    """Translate a published checkpoint for :func:`build_svt`, position embeddings fitted to its input.

    Raises
    ------
    WeightsError
        If a key has no counterpart.
    """
    from extract.backbones.positions import resize_grid, square_side

    for prefix in ("module.", "backbone.", "model."):
        inside = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        state = inside or strip_prefix(state, prefix)  # a DINO head stands beside `backbone.`: left behind
    translated = {}
    for key, value in state.items():
        if key.startswith("head."):
            continue
        name = _translate(key)
        if name is None:
            raise WeightsError(
                "weights of svt: expected the keys of kahnchana/svt (blocks.0.temporal_attn.qkv.weight ...), "
                f"found {key!r}"
            )
        translated[f"network.{name}"] = value
    assert info.size_px is not None
    assert info.num_frames is not None
    place, time = "network.embeddings.position_embeddings", "network.embeddings.time_embeddings"
    if place in translated and (side := square_side(translated[place].shape[1] - 1)):
        patches = info.size_px // PATCH_PX
        resized = resize_grid(translated[place][:, 1:], (1, side, side), (1, patches, patches))
        import torch

        translated[place] = torch.cat([translated[place][:, :1], resized], dim=1)
    if time in translated:
        frames = translated[time].shape[1]
        translated[time] = resize_grid(translated[time], (frames, 1, 1), (info.num_frames, 1, 1))
    return translated


def _translate(key: str) -> str | None:
    if found := _BLOCK.fullmatch(key):
        number, layer, rest = found.groups()
        return f"encoder.layer.{number}.{BLOCK_NAMES[layer]}.{rest}" if layer in BLOCK_NAMES else None
    if key in NAMES:
        return NAMES[key]
    layer, _, rest = key.rpartition(".")
    return f"{NAMES[layer]}.{rest}" if layer in NAMES else None


def import_transformers(what: str):  # type: ignore[no-untyped-def]  # the module itself is not typed
    """Return the transformers package, or say how to get it.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        import transformers
    except ImportError as err:
        raise MissingDependencyError(
            f"backbone {what} needs the transformers package, which cannot be imported ({err}); "
            'pip install "scale-pipeline[transformers]"'
        ) from err
    return transformers


def check_multiple(name: str, field: str, value: int, divisor: int) -> None:
    """Raise :class:`InvalidInputError` unless `divisor` divides `value`."""
    if value % divisor:
        raise InvalidInputError(f"{name}: expected {field} to be a multiple of {divisor}, found {value}")
