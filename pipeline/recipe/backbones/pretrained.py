"""Networks that this project pretrained."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from pipeline.recipe.backbones.base import BackboneBase, NamedWeights, WeightsFile
from pipeline.recipe.base import Name


class PretrainedBackbone(BackboneBase):
    """A network that `scale pretrain` left: by its name in the store, or as the file that it wrote."""

    kind: Literal["pretrained"]
    model: Name | None = None
    """Name of a pretraining, of this recipe's section `pretrain` or made before in the same dataset."""
    weights: WeightsFile | NamedWeights | None = None
    """Its `weights.safetensors` outside of any store; instead of `model`."""

    @model_validator(mode="after")
    def _one_of_both(self) -> PretrainedBackbone:
        if (self.model is None) == (self.weights is None):
            found = "neither" if self.model is None else "both"
            raise ValueError(f"expected either model (a name in the store) or weights (a file), found {found}")
        return self
