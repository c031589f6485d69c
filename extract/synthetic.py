"""What videos that this project draws itself are made of: ways to move, backgrounds, and real H.264 files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

Path2D = Callable[[float], tuple[float, float, float]]
"""Phase in 0..1 -> centre x and y in -1..1, and size factor."""


@dataclass(frozen=True)
class Motion:
    """A name and how a thing travels during one period."""

    name: str
    path: Path2D


def _triangle(phase: float) -> float:
    return 4 * abs(phase - 0.5) - 1


MOTIONS: tuple[Motion, ...] = (
    Motion("sweep", lambda p: (_triangle(p), 0.0, 1.0)),
    Motion("bounce", lambda p: (0.0, 1 - 2 * abs(np.sin(2 * np.pi * p)), 1.0)),
    Motion("circle", lambda p: (0.8 * np.cos(2 * np.pi * p), 0.8 * np.sin(2 * np.pi * p), 1.0)),
    Motion("pulse", lambda p: (0.0, 0.0, 1.0 + 0.8 * np.sin(2 * np.pi * p))),
    Motion("zigzag", lambda p: (_triangle(p), _triangle((3 * p) % 1.0), 1.0)),
    Motion("jump", lambda p: (0.8 if int(4 * p) % 2 else -0.8, 0.8 if int(4 * p) // 2 else -0.8, 1.0)),
)


def draw_background(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw waves of one colour over another: (height, width, 3)."""
    angle, wavelength_px = rng.uniform(0, np.pi), rng.uniform(20, 60)
    waves = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength_px)
    return rng.uniform(30, 160, 3) + waves[..., None] * rng.uniform(5, 25)


def encode_video(path: Path, frames: Iterator[np.ndarray], *, fps: int = 30) -> None:
    """Encode RGB frames as H.264 in an mp4 file, written whole (temporary name, then renamed)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with av.open(str(partial), "w", format="mp4") as container:
        # One encoding thread, also for x264's look-ahead: the same bytes however many the process may have.
        options = {"crf": "23", "preset": "veryfast", "x264-params": "threads=1:lookahead-threads=1:sliced-threads=0"}
        stream = container.add_stream("libx264", rate=Fraction(fps), options=options)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        for i, pixels in enumerate(frames):
            if i == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    partial.replace(path)
