"""Video transformers."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.backbones.base import BackboneBase, Weights


class TransformerBackbone(BackboneBase):
    """A video transformer from its published key format: SVT (TimeSformer ViT-B/16) or VideoMAE."""

    kind: Literal["svt", "videomae"]
    size: Literal["base", "large"] = "base"
    weights: Weights
