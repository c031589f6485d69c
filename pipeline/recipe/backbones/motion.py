"""How much a crop moves, as a feature set of one channel."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from pipeline.recipe.backbones.base import BackboneBase, RandomWeights


class MotionBackbone(BackboneBase):
    """The motion score of a crop: the mean absolute difference between its frames and those before them, in 0..1.

    Nothing in it is learned. `train: {moving: ...}` deals crops by it; any probe or query reads it like other features.
    """

    learns: ClassVar[bool] = False
    kind: Literal["motion"]
    streams: tuple[Literal["tgrad"], ...] = ("tgrad",)
    weights: RandomWeights = RandomWeights(random=0)
    dtype: Literal["float16", "float32"] = "float32"
    """A camera that stands still gives scores below what float16 tells apart."""

    @model_validator(mode="after")
    def _counts_in_its_own_units(self) -> MotionBackbone:
        for name in ("mean", "std"):
            if getattr(self, name) is not None:
                raise ValueError(f"expected no {name} for a motion score, found {getattr(self, name)}")
        return self
