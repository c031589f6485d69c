"""Networks that hear the crops: log-mel spectrograms of exactly the crop's time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from pipeline.recipe.backbones.base import BackboneBase, WeightsFile


class AudioBackbone(BackboneBase):
    """A ``torch.export`` program (.pt2) over sound: (B, 1, num_mels, num_steps) float32 -> (B, D).

    It sees the natural logarithm of mel energies, 1e-6 added; what else it wants (means, scales) is part of the
    program. Crops of a video without sound are not valid.
    """

    kind: Literal["audio"]
    weights: WeightsFile
    streams: tuple[Literal["audio"], ...] = ("audio",)
    sample_rate_hz: int = Field(16_000, ge=1_000, le=192_000)
    """What the sound is resampled to; mel bands lie between 0 and half of it."""
    num_mels: int = Field(64, ge=1, le=512)
    num_steps: int = Field(96, ge=1, le=4096)
    """Windows, their middles evenly spread over the crop's time."""
    window_ms: float = Field(25.0, gt=0, le=1000)
    """Of one window (Hann)."""

    @model_validator(mode="after")
    def _has_no_pixels(self) -> AudioBackbone:
        for name in ("num_frames", "size_px", "mean", "std"):
            if getattr(self, name) is not None:
                raise ValueError(f"expected no {name} for a network that hears, found {getattr(self, name)}")
        return self
