"""Networks of pytorchvideo."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.backbones.base import BackboneBase, Weights


class PytorchVideoBackbone(BackboneBase):
    """A network of pytorchvideo's zoo without its classification head: pooled features."""

    kind: Literal["pytorchvideo"]
    model: Literal[
        "slow_r50", "c2d_r50", "i3d_r50", "slowfast_r50", "x3d_xs", "x3d_s", "x3d_m", "x3d_l",
        "r2plus1d_r50", "csn_r101", "mvit_base_16", "mvit_base_16x4", "mvit_base_32x3",
    ]  # fmt: skip
    weights: Weights
