"""Videos this project draws itself whose classes are arrangements: the same four motions, elsewhere at other times.

A video lasts ten seconds. In its first half two things move, one on the left and one on the right, in its second half
two others, before another background. Every class shows all four motions; they differ in which comes where and when
alone. Colours, sizes, shapes, speeds and backgrounds are drawn at random and say nothing: who averages a video's parts
cannot tell the classes apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from extract.movers import CELL_PX, FPS, Mover, Task, draw_scenes, spread
from extract.synthetic import MOTIONS, encode_video

DURATION_S = 10.0
SHOWN = tuple(motion for motion in MOTIONS if motion.name in ("sweep", "bounce", "circle", "pulse"))
"""The motions that are arranged; a backbone is pretrained on all of `MOTIONS`."""
ARRANGEMENTS = tuple(
    first + second
    for halves in (((0, 1), (2, 3)), ((2, 3), (0, 1)))
    for first in (halves[0], halves[0][::-1])
    for second in (halves[1], halves[1][::-1])
)
"""Which motions are left and right in the first half, and left and right in the second: two orders in time, and in
each half either may be on the left. Averages over place can tell the order alone, averages over time too nothing."""


def class_name(arrangement: tuple[int, ...]) -> str:
    """Return what a class is called: ``sweep-bounce_circle-pulse`` (left-right of the first half, then the second)."""
    first_left, first_right, then_left, then_right = (SHOWN[k].name for k in arrangement)
    return f"{first_left}-{first_right}_{then_left}-{then_right}"


def draw_arrangement(
    arrangement: tuple[int, ...], *, seed: int, duration_s: float = DURATION_S
) -> Iterator[np.ndarray]:
    """Yield the frames of one video, (80, 160, 3) uint8 RGB each.

    Parameters
    ----------
    arrangement : tuple of int
        One of `ARRANGEMENTS`.
    seed : int
        Decides everything but the class.
    duration_s : float
    """
    rng = np.random.default_rng(seed)
    halves = []
    for half in range(2):
        motions = [SHOWN[k] for k in arrangement[2 * half : 2 * half + 2]]
        halves.append([Mover.drawn(motion, rng, side * CELL_PX) for side, motion in enumerate(motions)])
    return draw_scenes(halves, 2 * CELL_PX, round(duration_s * FPS), rng)


def write_arrangements(folder: Path, *, videos_per_class: int = 30, seed: int = 0, workers: int = 1) -> int:
    """Write ``folder/<class>/<class>_<nn>.mp4`` for every arrangement; files that are there stay.

    Parameters
    ----------
    folder : Path
    videos_per_class : int
    seed : int
    workers : int
        Processes that draw.

    Returns
    -------
    int
        How many files were written.
    """
    wanted = [
        (folder / class_name(one) / f"{class_name(one)}_{i:02d}.mp4", number, seed * 1_000_003 + number * 1009 + i)
        for number, one in enumerate(ARRANGEMENTS)
        for i in range(videos_per_class)
    ]
    missing = [task for task in wanted if not task[0].exists()]
    spread(_write_arrangement, missing, workers)
    return len(missing)


def _write_arrangement(task: Task) -> None:
    path, number, seed = task
    encode_video(path, draw_arrangement(ARRANGEMENTS[number], seed=seed), fps=FPS)
