"""Drawn videos of single motions: the same for the same seed, alike in nothing but their motion otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from extract.decoding.opening import open_reader
from extract.movers import CELL_PX, FPS, draw_single, write_singles
from extract.synthetic import MOTIONS


def test_a_seed_decides_everything_but_the_motion() -> None:
    first, again, other = (np.stack(list(draw_single(MOTIONS[0], seed=s, duration_s=1.0))) for s in (1, 1, 2))
    assert first.shape == (FPS, CELL_PX, CELL_PX, 3)
    assert (first == again).all()
    assert (first != other).any()
    changing = np.abs(np.diff(first.astype(int), axis=0)).mean((0, 3))
    assert changing.max() > 3 * np.median(changing)  # the background stands still


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    assert write_singles(tmp_path, videos_per_motion=1) == len(MOTIONS)
    files = sorted(tmp_path.rglob("*.mp4"))
    assert len(files) == len(MOTIONS)
    with open_reader(files[0]) as reader:
        assert (reader.height, reader.width) == (CELL_PX, CELL_PX)
    assert write_singles(tmp_path, videos_per_motion=1) == 0
