"""Videos with sound of which every moment is known, and a tiny network that hears."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from tests.support.videos import numbered_frames


def write_sounding_video(
    path: Path,
    frequency_hz: Callable[[np.ndarray], np.ndarray],
    *,
    num_frames: int = 60,
    rate: int = 44_100,
    codec: str = "pcm_s16le",
    sound_from_s: float = 0.0,
    sound_to_s: float | None = None,
) -> Path:
    """Write 30 frames a second with stereo sound whose frequency at each time is given; `.mkv` for raw samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = out.add_stream(codec, rate=rate)
        audio.layout = "stereo"
        for picture in numbered_frames(num_frames, height=48, width=64):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(video.encode(None))
        end_s = num_frames / 30 if sound_to_s is None else sound_to_s
        times_s = np.arange(round(sound_from_s * rate), round(end_s * rate)) / rate
        phase = 2 * np.pi * np.cumsum(frequency_hz(times_s)) / rate
        samples = (np.sin(phase) * 12_000).astype(np.int16)
        for start in range(0, len(samples), 1024):
            block = np.repeat(samples[start : start + 1024], 2)[None]
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_from_s * rate) + start
            out.mux(audio.encode(frame))
        out.mux(audio.encode(None))
    return path


def hearing_program(folder: Path, *, num_mels: int = 16, num_steps: int = 8) -> dict[str, Any]:
    """Return the recipe section of a network whose feature is the mean energy of each band."""
    import torch
    from torch import nn

    class Bands(nn.Module):
        def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
            return spectrograms.mean(dim=3).flatten(1)

    path = folder / "ear.pt2"
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    example = (torch.zeros(2, 1, num_mels, num_steps),)
    torch.export.save(torch.export.export(Bands().eval(), example, dynamic_shapes=shapes), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"kind": "audio", "weights": {"path": str(path), "sha256": digest}, "num_mels": num_mels,
            "num_steps": num_steps, "dtype": "float32"}  # fmt: skip
