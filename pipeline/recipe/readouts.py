"""Readouts that need no training, by name: what of which feature sets stands for a video."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from pipeline.recipe.base import Spec

Part = Literal["mean", "sqrt", "cosines", "std"]
CHOICE_VERSION = 2
"""Raised when `auto` would choose another strength from the same rows."""
MOMENTS: tuple[Part, ...] = ("mean", "cosines", "std")


class ReadoutPart(Spec):
    """What of one feature set."""

    crops: str
    backbone: str
    """The feature set (the backbone, plus `-<stream>` where it is not rgb)."""
    take: tuple[Part, ...] = Field(MOMENTS, min_length=1)
    """mean: pooled crops. sqrt: its signed root. cosines: the first `cosines` DCT coefficients over time, at each
    place. std: deviation over time at each place."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Of each vector taken; 1 everywhere gives all the same say."""

    @property
    def feature_set(self) -> str:
        """The feature set that is read, which the recipe calls `backbone`."""
        return self.backbone


class ReadoutSpec(Spec):
    """A vector a video: parts of feature sets, each centred on training rows and of length 1, side by side."""

    of: tuple[ReadoutPart, ...] = Field(min_length=1)
    cosines: int = Field(2, ge=1, le=32)
    """How many DCT coefficients `cosines` stands for."""
    project: Literal["none", "whitened", "whitened_parts", "vicreg"] = "none"
    """whitened: directions in which training rows vary most are damped. whitened_parts: those of each part by itself,
    and the say of parts stays. vicreg: those on which two halves of a video agree, the linear solution of VICReg and
    Barlow Twins in closed form."""
    strength: PositiveFloat | Literal["auto"] = "auto"
    """Shrinkage of the projection, in mean variances. auto: chosen on training groups with their labels (kNN); 10 where
    there are none."""
    outputs: int = Field(128, ge=1)
    """Directions that vicreg keeps."""

    def decides(self) -> dict[str, Any]:
        """Return what decides the vectors: the fields, and how a strength is chosen where one is."""
        fields: dict[str, Any] = self.model_dump(mode="json")
        is_chosen = self.project != "none" and self.strength == "auto"
        return fields | ({"choice": CHOICE_VERSION} if is_chosen else {})

    @classmethod
    def of_record(cls, decided: Any) -> ReadoutSpec | None:
        """Build it from what :meth:`decides` left in a record; None where a model made it (the record is a word)."""
        if not isinstance(decided, Mapping):
            return None
        return cls.model_validate({key: value for key, value in decided.items() if key != "choice"})

    @property
    def feature_sets(self) -> tuple[tuple[str, str], ...]:
        """Every (crops, feature set) that is read, once."""
        return tuple(dict.fromkeys((part.crops, part.feature_set) for part in self.of))


def plain_readout(name: str, crops: str, backbone: str) -> ReadoutSpec | None:
    """Return what a built-in word (moments, sqrt, std) means on one feature set; None for other words."""
    takes: dict[str, tuple[Part, ...]] = {"moments": MOMENTS, "sqrt": ("sqrt",), "std": ("std",)}
    if name not in takes:
        return None
    return ReadoutSpec(of=(ReadoutPart(crops=crops, backbone=backbone, take=takes[name]),))
