"""Videos this project draws itself: real H.264 files with one moving object each, for the demo and for tests.

What distinguishes the classes is *how* the object moves; its colour, size and
shape and the background are drawn at random, so that a single frame says
nothing about the class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

WIDTH_PX, HEIGHT_PX, FPS = 160, 120, 30

Path2D = Callable[[float], tuple[float, float, float]]
"""Phase in 0..1 -> centre x and y in -1..1, and size factor."""


@dataclass(frozen=True)
class Motion:
    """One class: a name and how its object travels during one period."""

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


def draw_frames(motion: Motion, *, num_frames: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the frames of one video.

    Parameters
    ----------
    motion : Motion
    num_frames : int
    seed : int
        Decides everything but the class: colours, shape, size, speed, phase, place, background.

    Yields
    ------
    ndarray of shape (120, 160, 3), uint8
        RGB.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    background = draw_background(rng, x, y)
    colour = rng.uniform(60, 255, 3)
    radius_px = rng.uniform(9, 16)
    period_s = rng.uniform(1.0, 1.8)
    phase = rng.uniform()
    centre_x, centre_y = rng.uniform(0.4, 0.6) * WIDTH_PX, rng.uniform(0.4, 0.6) * HEIGHT_PX
    reach_px = rng.uniform(0.25, 0.36) * HEIGHT_PX
    is_round = rng.uniform() < 0.5
    for i in range(num_frames):
        dx, dy, size = motion.path((phase + i / FPS / period_s) % 1.0)
        off_x, off_y = x - (centre_x + dx * reach_px), y - (centre_y + dy * reach_px)
        distance = np.hypot(off_x, off_y) if is_round else np.maximum(abs(off_x), abs(off_y))
        cover = np.clip(radius_px * size - distance + 0.5, 0, 1)[..., None]
        frame = background * (1 - cover) + colour * cover + rng.normal(0, 2, (HEIGHT_PX, WIDTH_PX, 1))
        yield np.clip(frame, 0, 255).astype(np.uint8)


def draw_background(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Draw waves of one colour over another: (height, width, 3)."""
    angle, wavelength_px = rng.uniform(0, np.pi), rng.uniform(20, 60)
    waves = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength_px)
    return rng.uniform(30, 160, 3) + waves[..., None] * rng.uniform(5, 25)


def encode_video(path: Path, frames: Iterator[np.ndarray], *, fps: int = FPS) -> None:
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


def write_dataset(folder: Path, *, videos_per_class: int = 16, num_frames: int = 60, seed: int = 0) -> int:
    """Write ``folder/<class>/<class>_<nn>.mp4`` for every motion; files that are there stay.

    Returns
    -------
    int
        How many files were written.
    """
    num_written = 0
    for c, motion in enumerate(MOTIONS):
        for i in range(videos_per_class):
            path = folder / motion.name / f"{motion.name}_{i:02d}.mp4"
            if not path.exists():
                video_seed = seed * 1_000_003 + c * 1009 + i
                length = num_frames + int(np.random.default_rng(video_seed).integers(0, num_frames // 2 + 1))
                encode_video(path, draw_frames(motion, num_frames=length, seed=video_seed))
                num_written += 1
    return num_written
