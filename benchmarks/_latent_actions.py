"""Made-up crop features whose class is *when and where* things are seen, not *what* is seen.

Every action is an arrangement of the same motifs over a grid of times and
sides. A crop's feature is the motif at its place and time, plus the video's own
background, plus noise; some crops show a distractor instead. All actions show
all motifs equally often, so that the mean over crops tells nothing about the action.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LatentActions:
    """What is generated; lengths are in units of a motif's norm."""

    num_actions: int = 6
    num_times: int = 3
    num_sides: int = 2
    num_crops: int = 12
    dim: int = 64
    distractors: float = 0.25
    """Share of crops that show one of eight distractors."""
    background: float = 0.05
    """Norm of a vector that all crops of a video share and no other video has."""
    noise: float = 0.5
    seconds: tuple[float, float] = (4.0, 12.0)
    """Shortest and longest video."""
    crop_share: float = 0.2
    """Of the video that a crop covers."""
    orders: int | None = None
    """Only so many orders over time; actions of one order show the same motifs at each time, on other sides."""


def generate(config: LatentActions, num_videos: int, *, world: int, seed: int) -> tuple[np.ndarray, ...]:
    """Draw videos of one world.

    Parameters
    ----------
    config : LatentActions
    num_videos : int
    world : int
        Seed of motifs, distractors and actions; training and test videos share it.
    seed : int
        Seed of the videos.

    Returns
    -------
    features : ndarray
        (N, V, D) float32.
    raw_geometry : ndarray
        (N, V, 9) float32: crops of half the frame's width.
    labels : ndarray
        (N,) int64.
    """
    motifs, distractors, arranged = what_is_shown(config, np.random.default_rng([world, 0]))
    random = np.random.default_rng([world, 1, seed])
    shape = (num_videos, config.num_crops)
    labels = random.integers(config.num_actions, size=num_videos)
    start = random.uniform(0.0, 1.0 - config.crop_share, size=shape)
    side = random.integers(config.num_sides, size=shape)
    moment = np.minimum(((start + config.crop_share / 2) * config.num_times).astype(int), config.num_times - 1)
    features = motifs[arranged[labels[:, None], moment, side]]
    distracted = random.random(shape) < config.distractors
    features = np.where(distracted[..., None], distractors[random.integers(8, size=shape)], features)
    own = unit(random.normal(size=(num_videos, 1, config.dim))) * config.background
    noise = random.normal(size=features.shape) * config.noise / np.sqrt(config.dim)

    duration_s = random.uniform(*config.seconds, size=(num_videos, 1))
    left = side * 200 + random.uniform(0, 40, size=shape) * np.where(side == 0, 1, -1)
    top = random.uniform(0, 120, size=shape)
    flip = random.integers(2, size=shape)
    columns = (
        start * duration_s, (start + config.crop_share) * duration_s, top, left, top + 120, left + 120, flip,
        np.ones(shape), np.floor(start * duration_s * 30),
    )  # fmt: skip
    return (features + own + noise).astype(np.float32), np.stack(columns, -1).astype(np.float32), labels


def what_is_shown(config: LatentActions, fixed: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a world: motifs, distractors, and which motif each action shows at each time on each side."""
    num_motifs = config.num_times * config.num_sides
    motifs = unit(fixed.normal(size=(num_motifs, config.dim)))
    distractors = unit(fixed.normal(size=(8, config.dim)))
    actions: list[np.ndarray] = []
    while len(actions) < config.num_actions:
        order = _same_times(config, len(actions), fixed) if config.orders else fixed.permutation(num_motifs)
        if all((order == other).sum() <= num_motifs // 2 for other in actions):
            actions.append(order)
    return motifs, distractors, np.stack(actions).reshape(-1, config.num_times, config.num_sides)


def _same_times(config: LatentActions, number: int, random: np.random.Generator) -> np.ndarray:
    """Draw an action whose motifs of one time are those that action `number` must show then, on sides of its own."""
    assert config.orders is not None
    motifs = np.arange(config.num_times * config.num_sides).reshape(config.num_times, config.num_sides)
    turned = np.roll(motifs, number % config.orders, axis=0)
    return random.permuted(turned, axis=1).ravel()


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)
