"""Video transformers from their published key formats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from extract.backbones.weights import load_strict, read_state_dict
from pipeline.compute.seeds import own_random
from pipeline.recipe.backbones import TransformerBackbone

if TYPE_CHECKING:
    import torch
    from torch import nn


@info_of.register(TransformerBackbone)
def describe(spec: TransformerBackbone, path: Path | None) -> BackboneInfo:
    """Describe SVT's or VideoMAE's network."""
    if spec.kind == "svt":
        from extract.backbones.svt import svt_info

        return svt_info(spec)
    from extract.backbones.videomae import videomae_info

    return videomae_info(spec)


@network_of.register(TransformerBackbone)
def build(spec: TransformerBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Build it with its weights."""
    state = read_state_dict(path, info.weights_network) if path is not None else None
    with own_random(info.weights_seed or 0):
        return _build_svt(info, state) if spec.kind == "svt" else _build_videomae(info, state)


def _build_svt(info: BackboneInfo, state: dict[str, torch.Tensor] | None) -> nn.Module:
    from extract.backbones.svt import build_svt, svt_state

    network = build_svt(info)
    if state is not None:
        load_strict(network, svt_state(state, info), what=info.name)
    return network.eval()


def _build_videomae(info: BackboneInfo, state: dict[str, torch.Tensor] | None) -> nn.Module:
    from extract.backbones.videomae import build_videomae, is_finetuned, videomae_state

    network = build_videomae(info, finetuned=state is not None and is_finetuned(state))
    if state is not None:
        load_strict(network, videomae_state(state, network.state_dict()), what=info.name)
    return network.eval()
