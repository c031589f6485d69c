"""The clips that benchmarks/aggregator.py reads: frames, moments, and views of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from systems import MOTION, RGB

from pipeline import FeatureStore
from pipeline.readouts.joining import fit_joined
from pipeline.readouts.moments import moments
from pipeline.readouts.whitening import spectrum

PARTS = ("mean", "cos1", "cos2", "std")


class Videos:
    """Every video's frames and moments; rows say which of them are looked at."""

    def __init__(self, store: str) -> None:
        self.ds = FeatureStore.open(store).dataset("jhmdb12")
        rgb, motion = (self.ds.select(rows=np.arange(len(self.ds.videos))).features(*pair) for pair in (RGB, MOTION))
        self.frames, self.valid = np.array(rgb.values, np.float32), np.array(rgb.valid, bool)
        self.geometry = np.array(rgb.geometry)
        self.parts = self.moments(self.valid)
        moved = moments(np.array(motion.values), np.array(motion.valid, bool), np.array(motion.geometry))
        self.motion = moved["mean"]
        self._within: dict[bytes, tuple[np.ndarray, np.ndarray, float]] = {}

    def moments(self, valid: np.ndarray, frames: np.ndarray | None = None) -> list[np.ndarray]:
        """Return mean, two cosines and deviation of the frames that count."""
        found = moments(self.frames if frames is None else frames, valid, self.geometry)
        return [found[name] for name in PARTS]

    @cached_property
    def views(self) -> list[list[np.ndarray]]:
        """Moments of each video's odd times, and of its even ones."""
        return [self.moments(valid) for valid in self.every_other()]

    @cached_property
    def scrambled(self) -> list[np.ndarray]:
        """Moments of each video's frames in an order drawn anew."""
        rng = np.random.default_rng(0)
        shuffled = self.frames.copy()
        times = shuffled.shape[1] // 3
        for n in range(len(shuffled)):
            order = (rng.permutation(times)[:, None] * 3 + np.arange(3)).ravel()
            shuffled[n, : 3 * times] = self.frames[n, order]
        return self.moments(self.valid, shuffled)

    def within(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Directions in which frames of these videos differ from their video's mean, variances, and their mean."""
        key = rows.tobytes()
        if key not in self._within:
            x, valid = self.frames[rows], self.valid[rows]
            own = x - (x * valid[..., None]).sum(1, keepdims=True) / np.maximum(valid.sum(1), 1)[:, None, None]
            _, directions, variances, mean_variance = spectrum(own[valid])
            self._within[key] = (directions.astype(np.float32), variances, mean_variance)
        return self._within[key]

    @cached_property
    def rank(self) -> np.ndarray:
        """Which time of its video each frame is, (N, V); there are three places a time."""
        middle = self.geometry[..., 0] + self.geometry[..., 1]
        return np.argsort(np.argsort(np.where(self.valid, middle, np.inf), axis=1, kind="stable"), axis=1) // 3

    @property
    def num_times(self) -> np.ndarray:
        """How many times each video has, (N, 1)."""
        return np.maximum(self.valid.sum(1) // 3, 1)[:, None]

    def pooled(self, chosen: np.ndarray) -> np.ndarray:
        """Return the mean of the frames that are chosen."""
        kept = self.valid & chosen
        return (self.frames * kept[..., None]).sum(1) / np.maximum(kept.sum(1), 1)[:, None]

    def every_other(self) -> tuple[np.ndarray, np.ndarray]:
        """Split the times of each video into odd and even ones."""
        odd = self.rank % 2 == 1
        return self.valid & odd, self.valid & ~odd


Fitted = Callable[[np.ndarray], np.ndarray]
"""Rows -> vectors."""


def joined(videos: Videos, parts: list[np.ndarray], rows: np.ndarray) -> Fitted:
    """Join parts with the same say."""
    fitted = fit_joined([p[rows] for p in parts])
    return lambda wanted: fitted([p[wanted] for p in parts])
