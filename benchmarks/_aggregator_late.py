"""Candidates of benchmarks/aggregator.py written down second: after cross-validation, before any test side was read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from _aggregator_videos import Fitted, Videos

from pipeline.readouts.joining import Joined, fit_joined, unit_rows
from pipeline.readouts.paired_views import fit_agreeing

STRENGTH = 10.0
"""Of the whitening inside the candidates, in mean variances."""


def own_white(parts: list[np.ndarray], rows: np.ndarray, std: float = 1.0) -> Joined:
    """Fit each part's whitening on some rows; `std` is the say of the deviation, the fourth part of moments + tgrad."""
    say = [std if i == 3 else 1.0 for i in range(len(parts))]
    return fit_joined([part[rows] for part in parts], weights=say, strength=STRENGTH, by_part=True)


def base_parts(videos: Videos) -> list[np.ndarray]:
    """Return moments and tgrad."""
    return [*videos.parts, videos.motion]


def by_part(videos: Videos, rows: np.ndarray, strength: float, std: float) -> Fitted:
    """Whiten each part of moments + tgrad by itself; `std` is the say of the deviation."""
    parts = base_parts(videos)
    fitted = fit_joined(
        [part[rows] for part in parts], weights=[1, 1, 1, std, 1], strength=strength, by_part=True
    )  # fmt: skip
    return lambda wanted: fitted([part[wanted] for part in parts])


def profile(videos: Videos, rows: np.ndarray, own: float, std: float = 1.0) -> Fitted:
    """Read a video by its similarities to all training videos, perhaps beside itself: a kernel's map."""
    inner = by_part(videos, rows, STRENGTH, std)
    known = inner(rows)

    def read(wanted: np.ndarray) -> np.ndarray:
        x = inner(wanted)
        similar = x @ known.T
        return unit_rows(np.concatenate([own * x, unit_rows(similar - similar.mean(1, keepdims=True))], axis=1))

    return read


def agreeing(videos: Videos, rows: np.ndarray, strength: float, own: float, std: float = 1.0) -> Fitted:
    """Keep the directions on which odd and even times agree, once parts are whitened; perhaps beside the parts."""
    parts = base_parts(videos)
    fitted = own_white(parts, rows, std)
    views = [fitted([part[rows] for part in (*view, videos.motion)]) for view in videos.views]
    found = fit_agreeing(views[0], views[1], outputs=64, strength=strength)

    def read(wanted: np.ndarray) -> np.ndarray:
        x = fitted([part[wanted] for part in parts])
        return unit_rows(np.concatenate([own * x, unit_rows(found(x))], axis=1))

    return read


def future(videos: Videos, rows: np.ndarray, ridge: float) -> Fitted:
    """Guess from a video's first half what the second adds: the guess, and what comes otherwise, are parts."""
    is_first = videos.rank < videos.num_times / 2
    first, second = videos.pooled(is_first), videos.pooled(~is_first)
    change = np.where((videos.valid & ~is_first).any(1)[:, None], second - first, 0)
    centred = fit_joined([first[rows]])
    x, target = centred([first[rows]]).astype(np.float64), change[rows] - change[rows].mean(0)
    weights = x.T @ np.linalg.solve(x @ x.T + ridge * len(x) * np.eye(len(x)), target)
    guess = (centred([first]) @ weights).astype(np.float32)
    parts = [*base_parts(videos), guess, (change - change[rows].mean(0) - guess).astype(np.float32)]
    fitted = own_white(parts, rows)
    return lambda wanted: fitted([part[wanted] for part in parts])


def two_times(videos: Videos, rows: np.ndarray, ridge: float | None) -> Fitted:
    """Read two times of each video: mean, difference and its size; or what these say of the whole video."""
    last = videos.num_times - 1
    at = [np.minimum(n, last) for n in (videos.num_times // 4, (3 * videos.num_times) // 4)]
    first, second = (videos.pooled(videos.rank == time) for time in at)
    parts = [(first + second) / 2, second - first, np.abs(second - first)]
    fitted = own_white(parts, rows)

    def student(wanted: np.ndarray) -> np.ndarray:
        return fitted([part[wanted] for part in parts])

    if ridge is None:
        return student
    x = student(rows).astype(np.float64)
    teacher = by_part(videos, rows, STRENGTH, 1.0)(rows).astype(np.float64)
    # Where training videos lie is enough of the teacher: a turn of its space changes neither probe.
    _, size, turned = np.linalg.svd(teacher - teacher.mean(0), full_matrices=False)
    target = (teacher - teacher.mean(0)) @ turned[size > 1e-6 * size[0]].T
    weights = x.T @ np.linalg.solve(x @ x.T + ridge * len(x) * np.eye(len(x)), target)
    return lambda wanted: unit_rows(student(wanted) @ weights)


LATE: dict[str, tuple[Callable[..., Fitted], list[dict[str, Any]]]] = {
    "whitened part by part": (by_part, [{"strength": c, "std": s} for c in (10.0, 30.0) for s in (1.0, 2.0)]),
    "similarities to training videos": (
        profile, [{"own": 0.0}, {"own": 1.0}, {"own": 1.0, "std": 2.0}, {"own": 2.0, "std": 2.0}]
    ),
    "closed VICReg of whitened parts": (agreeing, [
        {"strength": 30.0, "own": 0.0}, {"strength": 30.0, "own": 1.0}, {"strength": 30.0, "own": 1.0, "std": 2.0}]),
    "the future, guessed and not": (future, [{"ridge": 1e-2}]),
    "two times, whitened parts": (two_times, [{"ridge": None}]),
    "two times, distilled from whitened parts": (two_times, [{"ridge": r} for r in (1e-3, 1e-2)]),
}  # fmt: skip
