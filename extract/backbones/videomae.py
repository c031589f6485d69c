"""VideoMAE ViT-B and ViT-L from MCG-NJU's checkpoints, pre-trained or fine-tuned, and from their Hugging Face form.

The network is transformers' ``VideoMAEModel``. Features, as SCALE reads
them: pre-trained, the mean of all tokens after the last norm; fine-tuned,
``fc_norm`` of the mean of all tokens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from extract.backbones.checkpoint_keys import strip_prefix
from extract.backbones.interface import IMAGENET_MEAN, IMAGENET_STD, BackboneInfo
from extract.backbones.svt import check_multiple, import_transformers
from pipeline.errors import WeightsError
from pipeline.recipe import TransformerBackbone

if TYPE_CHECKING:
    import torch
    from torch import nn

PATCH_PX = 16
TUBELET_FRAMES = 2
NATIVE_FRAMES = 16
NATIVE_SIZE_PX = 224
SIZES: dict[str, dict[str, Any]] = {
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
LEFT_OUT = re.compile(r"(head|classifier|decoder|encoder_to_decoder)\.|mask_token$|(.*\.)?pos(ition)?_embed(dings)?$")
"""Heads, the decoder of pre-training, and position embeddings, which are a fixed table."""
_BLOCK = re.compile(r"blocks\.(\d+)\.([\w.]+?)\.(weight|bias)")
_ATTENTION = re.compile(r"blocks\.(\d+)\.attn\.(qkv\.weight|q_bias|v_bias)")


def videomae_info(spec: TransformerBackbone) -> BackboneInfo:
    """Describe a VideoMAE backbone; the weights are filled in by the caller.

    Raises
    ------
    InvalidInputError
        If size or frames are no multiples of the patch.
    """
    num_frames, size_px = spec.num_frames or NATIVE_FRAMES, spec.size_px or NATIVE_SIZE_PX
    check_multiple("videomae", "size_px", size_px, PATCH_PX)
    check_multiple("videomae", "num_frames", num_frames, TUBELET_FRAMES)
    return BackboneInfo(
        name=f"videomae_{spec.size}",
        kind="videomae",
        model=f"videomae ViT-{spec.size[0].upper()}/16",
        readout="mean of tokens, after the last norm or before fc_norm where the weights have one",
        mean=spec.mean or IMAGENET_MEAN,
        std=spec.std or IMAGENET_STD,
        dim=SIZES[spec.size]["hidden_size"],
        num_frames=num_frames,
        size_px=size_px,
    )


def build_videomae(info: BackboneInfo, *, finetuned: bool = False, **overrides: Any) -> nn.Module:
    """Build the network: (B, 3, T, H, W) -> (B, D).

    Parameters
    ----------
    info : BackboneInfo
    finetuned : bool
        Read through ``fc_norm``.
    **overrides
        Of the configuration; tests build shallow ones.

    Raises
    ------
    MissingDependencyError
        If transformers is not installed.
    """
    from torch import nn

    transformers = import_transformers("videomae")

    from extract.backbones.positions import resize_grid, sinusoid_table
    from extract.backbones.transformer_layers import FramesFirst

    assert info.size_px is not None
    assert info.num_frames is not None
    size = next(values for values in SIZES.values() if values["hidden_size"] == info.dim)
    config = transformers.VideoMAEConfig(
        **{**size, **overrides}, image_size=info.size_px, patch_size=PATCH_PX, num_frames=info.num_frames,
        tubelet_size=TUBELET_FRAMES, layer_norm_eps=1e-6, use_mean_pooling=finetuned,
    )  # fmt: skip
    network = transformers.VideoMAEModel(config)
    native = (NATIVE_FRAMES // TUBELET_FRAMES, NATIVE_SIZE_PX // PATCH_PX, NATIVE_SIZE_PX // PATCH_PX)
    wanted = (info.num_frames // TUBELET_FRAMES, info.size_px // PATCH_PX, info.size_px // PATCH_PX)
    table = sinusoid_table(native[0] * native[1] * native[2], config.hidden_size)
    network.embeddings.position_embeddings = resize_grid(table, native, wanted)
    return FramesFirst(network, "mean", nn.LayerNorm(config.hidden_size, eps=1e-6) if finetuned else None)


def is_finetuned(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a checkpoint is read through ``fc_norm``."""
    return any(key.endswith("fc_norm.weight") for key in state)


def videomae_state(state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Translate a published checkpoint for :func:`build_videomae`.

    Parameters
    ----------
    state : mapping
        MCG-NJU's names (with ``encoder.`` before them in pre-training files), or transformers'.
    expected : mapping
        The network's own state; its spelling of the query's bias differs between versions of transformers.

    Raises
    ------
    WeightsError
        If a key has no counterpart.
    """
    state = strip_prefix(state, "module.")
    hugging_face = any("embeddings.patch_embeddings." in key for key in state)
    translated: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = key.removeprefix("videomae.") if hugging_face else key.removeprefix("encoder.")
        if LEFT_OUT.match(name):
            continue
        items = {name: value} if hugging_face else _from_mcg(name, value)
        if items is None:
            raise WeightsError(
                f"weights of videomae: expected the keys of MCG-NJU/VideoMAE (blocks.0.attn.qkv.weight ...) or of "
                f"transformers, found {key!r}"
            )
        for place, tensor in items.items():
            outside = place.startswith("fc_norm.")
            translated[f"after.{place.removeprefix('fc_norm.')}" if outside else f"network.{place}"] = tensor
    return {_spell_bias(name, expected): tensor for name, tensor in translated.items()}


def _from_mcg(key: str, value: torch.Tensor) -> dict[str, torch.Tensor] | None:
    if found := _ATTENTION.fullmatch(key):
        inner = f"encoder.layer.{found[1]}.attention.attention"
        if found[2] == "qkv.weight":
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            return {f"{inner}.{name}.weight": part for name, part in parts}
        return {f"{inner}.{'query' if found[2] == 'q_bias' else 'value'}.bias": value}
    if found := _BLOCK.fullmatch(key):
        name = BLOCK_NAMES.get(found[2])
        return {f"encoder.layer.{found[1]}.{name}.{found[3]}": value} if name else None
    layer, _, rest = key.rpartition(".")
    places = {"patch_embed.proj": "embeddings.patch_embeddings.projection", "norm": "layernorm", "fc_norm": "fc_norm"}
    return {f"{places[layer]}.{rest}": value} if layer in places else None


def _spell_bias(name: str, expected: Mapping[str, torch.Tensor]) -> str:
    """``query.bias`` or ``q_bias``, as the installed transformers calls it."""
    if name in expected:
        return name
    for long, short in (("query.bias", "q_bias"), ("value.bias", "v_bias")):
        for old, new in ((long, short), (short, long)):
            if name.endswith(old) and name.removesuffix(old) + new in expected:
                return name.removesuffix(old) + new
    return name
