"""Networks of pytorchvideo's zoo."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from extract.backbones.weights import load_strict, read_state_dict
from pipeline.compute.seeds import own_random
from pipeline.recipe.backbones import PytorchVideoBackbone

if TYPE_CHECKING:
    from torch import nn


@info_of.register(PytorchVideoBackbone)
def describe(spec: PytorchVideoBackbone, path: Path | None) -> BackboneInfo:
    """Describe a network of the zoo."""
    from extract.backbones.zoo import zoo_info

    return zoo_info(spec)


@network_of.register(PytorchVideoBackbone)
def build(spec: PytorchVideoBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Build it, without its classification head."""
    from extract.backbones.checkpoint_keys import HEAD_KEYS, to_pytorchvideo
    from extract.backbones.zoo import build_zoo_network, headless, resize_positions

    state = read_state_dict(path, info.weights_network) if path is not None else None
    with own_random(info.weights_seed or 0):
        network = build_zoo_network(info)
        if state is not None:
            state = to_pytorchvideo(state, info.model, info.weights_network, what=info.name)
            state = resize_positions(state, network)
            load_strict(network, state, what=info.name, except_for=HEAD_KEYS.pattern)
        return headless(network, info).eval()
