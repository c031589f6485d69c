"""Motion scores: a network without weights over the temporal gradient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from pipeline.recipe.backbones.motion import MotionBackbone

if TYPE_CHECKING:
    from torch import nn

NO_MOTION = (0.5, 0.5, 0.5)
"""What the temporal gradient shows where nothing moves; half a unit of it is a whole unit of light."""


@info_of.register(MotionBackbone)
def describe(spec: MotionBackbone, path: Path | None) -> BackboneInfo:
    """Describe the score."""
    return BackboneInfo(
        "motion",
        "motion",
        "mean absolute difference",
        "score",
        NO_MOTION,
        NO_MOTION,
        dim=1,
        compile_gain=1.0,
        openvino_gain=1.0,
    )


@network_of.register(MotionBackbone)
def build(spec: MotionBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Build it."""
    from torch import Tensor, nn

    class MeanDifference(nn.Module):
        def forward(self, gradient: Tensor) -> Tensor:
            return gradient.abs().mean(dim=(1, 2, 3, 4), keepdim=False)[:, None]

    return MeanDifference().eval()
