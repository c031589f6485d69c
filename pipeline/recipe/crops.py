"""Crop policies: which boxes of space and time are drawn from every video.

A policy is pure configuration. The boxes come from :mod:`extract.crops.draw`; a
neighbour of SCALE that samples otherwise adds a model to the union below and
a function there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from pipeline.recipe.base import Spec


class CropPolicyBase(Spec):
    """What all policies share: how one crop is sampled in time, and how large it is seen."""

    num_frames: int = Field(16, ge=1, le=1024)
    """Frames of one crop."""
    stride: int = Field(4, ge=1, le=1024)
    """Steps of 1/target_fps between two frames of a crop."""
    target_fps: float | None = Field(30.0, gt=0)
    """Frame k of a crop is the one shown at start_s + k * stride / target_fps. None: the video's own frames."""
    size_px: int = Field(224, ge=8, le=4096)
    """Side of the square that a crop box is resized to (a backbone may ask for another size)."""
    short: Literal["loop", "repeat_last", "reject"] = "loop"
    """A video shorter than one crop: start again, hold the last frame, or mask its crops. Its status is too_short."""
    damaged: Literal["mask", "keep"] = "mask"
    """Crops that show frames which the decoder flagged as damaged, or which are made from such: not valid, or kept."""
    seed: int = 0

    @model_serializer(mode="wrap")
    def _leave_out(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later than the first stores while it is at its default: their fingerprints stay."""
        content: dict[str, Any] = dump(self)
        if content.get("damaged") == "mask":
            del content["damaged"]
        return content


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


class GridPolicy(CropPolicyBase):
    """SCALE's test crops: `temporal` starts times `spatial` places along the longer side."""

    policy: Literal["grid"]
    temporal: int = Field(5, ge=1)
    spatial: int = Field(3, ge=1)
    short_side_px: int = Field(256, ge=8)
    size_px: int = Field(256, ge=8, le=4096)
    cover_tail: bool = False
    """True: the last start reaches the video's end. False: start = max_start * i / temporal, as in SCALE's code."""

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return self.temporal * self.spatial


class LocalGlobalPolicy(CropPolicyBase):
    """SVT: global crops over nearly the whole video, local crops inside a window of 1/8 of it."""

    policy: Literal["local_global"]
    num_global: int = Field(2, ge=1)
    num_local: int = Field(8, ge=0)
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)
    local_fraction: float = Field(0.125, gt=0, le=1)
    num_frames: int = Field(8, ge=1, le=1024)
    flip: bool = True

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return self.num_global + self.num_local


class DensePolicy(CropPolicyBase):
    """Sliding windows over long videos; the number of crops follows the duration, the rest is masked."""

    policy: Literal["dense"]
    hop_s: float = Field(1.0, gt=0)
    """Seconds between two starts."""
    num_crops: int = Field(64, ge=1, le=4096)
    """Most crops a video; longer ones are spread over the whole duration."""
    short_side_px: int = Field(256, ge=8)


class FramesPolicy(CropPolicyBase):
    """Single frames over the whole video at a rate: the finest order of time that an image network can give."""

    policy: Literal["frames"]
    rate_fps: float = Field(8.0, gt=0)
    """Frames a second; each is a crop of its own."""
    temporal: int = Field(32, ge=1, le=4096)
    """Most times a video; longer ones are spread over the whole duration, shorter ones leave the rest masked."""
    spatial: int = Field(1, ge=1)
    """Places along the longer side, each seen at every time."""
    num_frames: int = Field(1, ge=1, le=1)
    """Always 1."""
    stride: int = Field(1, ge=1, le=1)
    """Always 1."""
    short_side_px: int = Field(256, ge=8)

    @property
    def num_crops(self) -> int:
        """Crops a video, at most."""
        return self.temporal * self.spatial


class SpeedsPolicy(CropPolicyBase):
    """Playback speed and direction: crops at signed strides, for speed and order work."""

    policy: Literal["speeds"]
    speeds: tuple[int, ...] = (-4, -2, -1, 1, 2, 4)
    """Signed multiples of `stride`; 0 is a frozen frame."""
    crops_per_speed: int = Field(1, ge=1)
    short_side_px: int | tuple[int, int] = (256, 320)
    stride: int = Field(1, ge=1, le=1024)

    @model_validator(mode="after")
    def _speeds_in_range(self) -> SpeedsPolicy:
        if not self.speeds or any(abs(s) > 16 for s in self.speeds):
            raise ValueError(f"expected 1 or more speeds in -16..16, found {self.speeds}")
        return self

    @property
    def num_crops(self) -> int:
        """Crops a video."""
        return len(self.speeds) * self.crops_per_speed


class ImportedPolicy(CropPolicyBase):
    """Crops that came with imported features: nobody can draw them again, so no other backbone can see them."""

    policy: Literal["imported"]
    num_crops: int = Field(ge=1, le=65_536)
    source: str = ""
    """Where they came from: the format, and what it calls this set."""
    geometry: Literal["raw", "per_video", "none"] = "raw"
    """raw: seconds and source pixels. per_video: boxes and times min-max normalised over the crops of each video, as
    SCALE's files hold them; what the model reads is derived from them unchanged. none: not known, all zero."""


CropPolicy = Annotated[
    RandomPolicy | GridPolicy | LocalGlobalPolicy | DensePolicy | FramesPolicy | SpeedsPolicy | ImportedPolicy,
    Field(discriminator="policy"),
]
