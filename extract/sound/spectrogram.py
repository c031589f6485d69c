"""Log-mel spectrograms of pieces of sound. NumPy alone: decoding workers make them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

SPECTROGRAM_VERSION = 1
"""Raised when the code below changes numbers; part of the fingerprint."""
LOG_OFFSET = 1e-6


@dataclass(frozen=True, slots=True)
class SoundSpec:
    """What a network hears of a crop."""

    sample_rate_hz: int
    num_mels: int
    num_steps: int
    window_ms: float

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        return max(2, round(self.window_ms * self.sample_rate_hz / 1000))

    def description(self) -> dict[str, Any]:
        """Return what changes the numbers, for the fingerprint."""
        return {"version": SPECTROGRAM_VERSION, "log": f"natural, {LOG_OFFSET:g} added", **asdict(self)}


def log_mel(samples: np.ndarray, spec: SoundSpec) -> np.ndarray:
    """Return the spectrogram of one crop's sound.

    Parameters
    ----------
    samples : ndarray of shape (N,), float32
        Exactly the crop's time at `spec.sample_rate_hz`, -1 to 1.
    spec : SoundSpec

    Returns
    -------
    ndarray of shape (num_mels, num_steps), float32
        Windows reach beyond the crop's ends into silence.
    """
    width = spec.window_samples
    middles = (np.arange(spec.num_steps) + 0.5) / spec.num_steps * len(samples)
    padded = np.concatenate([np.zeros(width, np.float32), samples, np.zeros(width, np.float32)])
    starts = np.clip(np.round(middles + width - width / 2).astype(np.int64), 0, len(padded) - width)
    windows = padded[starts[:, None] + np.arange(width)] * np.hanning(width + 1)[:-1].astype(np.float32)
    size = 1 << (width - 1).bit_length()
    power = np.abs(np.fft.rfft(windows, n=size, axis=1)) ** 2 / width
    return np.log(_mel_bands(spec.sample_rate_hz, spec.num_mels, size) @ power.T + LOG_OFFSET).astype(np.float32)


@lru_cache(maxsize=16)
def _mel_bands(sample_rate_hz: int, num_mels: int, size: int) -> np.ndarray:
    """Return triangles on the HTK mel scale, (num_mels, size / 2 + 1)."""
    frequencies = np.linspace(0, sample_rate_hz / 2, size // 2 + 1)
    top = 2595 * np.log10(1 + sample_rate_hz / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - low) / (middle - low)
    falling = (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))
