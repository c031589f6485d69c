"""Exported programs (``torch.export``, .pt2) as backbones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import KINETICS_MEAN, KINETICS_STD, BackboneInfo
from pipeline.errors import WeightsError
from pipeline.recipe import ExportedBackbone

if TYPE_CHECKING:
    from torch import nn


def exported_info(spec: ExportedBackbone, path: Path) -> BackboneInfo:
    """Describe an exported program."""
    return BackboneInfo(
        name=path.stem,
        kind="exported",
        model="torch.export program",
        readout="output" if spec.input == "crop" else "output, mean over frames",
        mean=spec.mean or KINETICS_MEAN,
        std=spec.std or KINETICS_STD,
        num_frames=spec.num_frames,
        size_px=spec.size_px,
        input=spec.input,
    )


def build_exported(info: BackboneInfo, path: Path) -> nn.Module:
    """Load a program: (B, 3, T, H, W) -> (B, D)."""
    import torch

    from extract.backbones.pooling import MeanOverFrames

    try:
        network = torch.export.load(path).module()
    except (RuntimeError, ValueError, AssertionError, KeyError) as err:
        raise WeightsError(f"expected a torch.export program at {path}, found something else: {err}") from err
    return MeanOverFrames(network) if info.input == "frame" else network
