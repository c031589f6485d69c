"""Random crops, for training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.base import Spec
from pipeline.recipe.crops.base import CropPolicyBase


class ColourAugmentation(Spec):
    """Colour jitter, grey and blur, one draw per crop, so that it is consistent over time."""

    brightness: float = Field(0.6, ge=0)
    contrast: float = Field(0.6, ge=0)
    saturation: float = Field(0.6, ge=0)
    hue: float = Field(0.15, ge=0, le=0.5)
    jitter_probability: float = Field(0.8, ge=0, le=1)
    grey_probability: float = Field(0.2, ge=0, le=1)
    blur_probability: float = Field(0.5, ge=0, le=1)
    blur_sigma: tuple[float, float] = (0.1, 2.0)


class RandomPolicy(CropPolicyBase):
    """SCALE's training crops: random place and time, iid (or with CVRL's interval law), optional flip.

    Weak form (default): short side ~ U(short_side_px), random square crop of size_px.
    Strong form: set `area`: random resized crop of that area fraction and `aspect`, with `colour`.
    """

    policy: Literal["random"]
    num_crops: int = Field(16, ge=1, le=4096)
    short_side_px: int | tuple[int, int] = (256, 320)
    flip: bool = True
    area: tuple[float, float] | None = None
    """Area fraction range of a random resized crop; None: the weak form."""
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    colour: ColourAugmentation | None = None
    interval_exponent: float | None = Field(None, gt=0)
    """CVRL: crops come in pairs whose distance has density ~ 1 - (delta/T)^a. None: iid starts (equal to a = 1)."""
