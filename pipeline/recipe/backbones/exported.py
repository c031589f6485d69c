"""Programs that torch exported."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.backbones.base import BackboneBase, WeightsFile


class ExportedBackbone(BackboneBase):
    """A ``torch.export`` program (.pt2): crops in, features out."""

    kind: Literal["exported"]
    weights: WeightsFile
    input: Literal["crop", "frame"] = "crop"
    """crop: (B, 3, T, H, W). frame: (B, 3, H, W) for every frame, averaged over the crop's frames."""
