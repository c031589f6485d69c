"""What all crop policies share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import LATER, Spec


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
    damaged: Annotated[Literal["mask", "keep"], LATER] = "mask"
    """Crops that show frames which the decoder flagged as damaged, or which are made from such: not valid, or kept."""
    seed: int = 0

    if TYPE_CHECKING:  # each kind has them: a field of it, or a property

        @property
        def policy(self) -> str:
            """Name of the kind."""

        @property
        def num_crops(self) -> int:
            """Crops a video."""

    @property
    def longest_stride(self) -> int:
        """Of any crop, in steps."""
        return self.stride

    @property
    def follows_duration(self) -> bool:
        """Whether crops shrink with the video, so that only one with too few frames is too short for them."""
        return False
