"""Videos this project draws itself: things that move in square cells, before still backgrounds.

What tells videos apart is *how* a thing moves; colour, size, shape, speed and background are drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from extract.synthetic import MOTIONS, Motion, draw_background, encode_video

CELL_PX, FPS = 80, 15


@dataclass(frozen=True)
class Mover:
    """One thing that moves in a square cell, and how; all lengths in pixels."""

    motion: Motion
    colour: np.ndarray
    radius: float
    period_s: float
    phase: float
    reach: float
    centre: tuple[float, float]
    is_round: bool

    @classmethod
    def drawn(cls, motion: Motion, rng: np.random.Generator, left_px: int = 0) -> Mover:
        """Draw everything but the motion, for a cell that begins at `left_px`."""
        return cls(
            motion,
            rng.uniform(60, 255, 3).astype(np.float32),
            rng.uniform(0.075, 0.13) * CELL_PX,
            rng.uniform(1.0, 1.6),
            rng.uniform(),
            rng.uniform(0.25, 0.36) * CELL_PX,
            (left_px + rng.uniform(0.42, 0.58) * CELL_PX, rng.uniform(0.42, 0.58) * CELL_PX),
            rng.uniform() < 0.5,
        )

    def paint(self, frame: np.ndarray, time_s: float) -> None:
        """Put the thing into a frame, (H, W, 3) float32, where it is at a time."""
        dx, dy, size = self.motion.path((self.phase + time_s / self.period_s) % 1.0)
        at_x, at_y, radius = self.centre[0] + dx * self.reach, self.centre[1] + dy * self.reach, self.radius * size
        left, top = (max(0, int(at - radius - 1)) for at in (at_x, at_y))
        patch = frame[top : int(at_y + radius + 3), left : int(at_x + radius + 3)]
        off_y, off_x = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
        off_x, off_y = abs(off_x - at_x), abs(off_y - at_y)
        distance = np.hypot(off_x, off_y) if self.is_round else np.maximum(off_x, off_y)
        cover = np.clip(radius - distance + 0.5, 0, 1)[..., None].astype(np.float32)
        patch += cover * (self.colour - patch)


def draw_single(motion: Motion, *, seed: int, duration_s: float = 2.0) -> Iterator[np.ndarray]:
    """Yield the frames of a short video of one motion, (80, 80, 3) uint8 RGB each: what a backbone is pretrained on."""
    rng = np.random.default_rng(seed)
    return draw_scenes([[Mover.drawn(motion, rng)]], CELL_PX, round(duration_s * FPS), rng)


def draw_scenes(
    scenes: list[list[Mover]], width_px: int, num_frames: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield the frames of scenes that follow one another, each before a background of its own."""
    y, x = np.mgrid[0:CELL_PX, 0:width_px].astype(np.float32)
    backgrounds = [draw_background(rng, x, y).astype(np.float32) for _ in scenes]
    for i in range(num_frames):
        scene = i * len(scenes) // num_frames
        frame = backgrounds[scene] + 2 * rng.standard_normal((CELL_PX, width_px, 1), dtype=np.float32)
        for mover in scenes[scene]:
            mover.paint(frame, i / FPS)
        yield np.clip(frame, 0, 255).astype(np.uint8)


def write_singles(folder: Path, *, videos_per_motion: int = 24, seed: int = 1, workers: int = 1) -> int:
    """Write ``folder/<motion>/<motion>_<nn>.mp4``, short videos of single motions; files that are there stay."""
    wanted = [
        (folder / motion.name / f"{motion.name}_{i:02d}.mp4", number, seed * 1_000_003 + number * 1009 + i)
        for number, motion in enumerate(MOTIONS)
        for i in range(videos_per_motion)
    ]
    missing = [task for task in wanted if not task[0].exists()]
    spread(_write_single, missing, workers)
    return len(missing)


Task = tuple[Path, int, int]
"""Where, which motion or arrangement, seed."""


def _write_single(task: Task) -> None:
    path, number, seed = task
    encode_video(path, draw_single(MOTIONS[number], seed=seed), fps=FPS)


def spread(write: Callable[[Task], None], tasks: Sequence[Task], workers: int) -> None:
    """Write files, in several spawned processes where more than one is wanted; `write` is a function of a module."""
    if workers <= 1 or len(tasks) < 2:
        for task in tasks:
            write(task)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(write, tasks, chunksize=4))
