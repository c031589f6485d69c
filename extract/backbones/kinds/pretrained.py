"""Networks that this project pretrained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from pipeline.recipe.backbones import PretrainedBackbone

if TYPE_CHECKING:
    from torch import nn


@info_of.register(PretrainedBackbone)
def describe(spec: PretrainedBackbone, path: Path | None) -> BackboneInfo:
    """Describe what the file says of its network."""
    from extract.backbones.stored import stored_info

    assert path is not None
    return stored_info(spec, path)


@network_of.register(PretrainedBackbone)
def build(spec: PretrainedBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Build it with its weights."""
    from extract.backbones.stored import build_stored

    assert path is not None
    return build_stored(path, what=spec.model or info.name)
