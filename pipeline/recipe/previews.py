"""The section `previews`: small pictures of every video, kept in the store while it is extracted."""

from __future__ import annotations

from pydantic import Field

from pipeline.recipe.base import Spec


class PreviewSpec(Spec):
    """A strip of frames a video, as one JPEG; taken from frames that crops show, so nothing is decoded for it."""

    num_frames: int = Field(5, ge=1, le=16)
    """Frames of a strip, evenly spread over those that were decoded."""
    width_px: int = Field(160, ge=32, le=480)
    """Of one frame; its height follows. Never enlarged."""
    max_kib: int = Field(24, ge=4, le=96)
    """Of a strip at most: quality, then frames are given up to stay below."""
