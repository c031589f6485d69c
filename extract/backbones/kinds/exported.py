"""Programs that torch exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from pipeline.recipe.backbones import ExportedBackbone

if TYPE_CHECKING:
    from torch import nn


@info_of.register(ExportedBackbone)
def describe(spec: ExportedBackbone, path: Path | None) -> BackboneInfo:
    """Describe what the program's file says of itself."""
    from extract.backbones.exported import exported_info

    assert path is not None
    return exported_info(spec, path)


@network_of.register(ExportedBackbone)
def build(spec: ExportedBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Load the program."""
    from extract.backbones.exported import build_exported

    assert path is not None
    return build_exported(info, path)
