"""Made-up videos with frames: the actions of `_latent_actions`, something that moves, and crops of several speeds.

On either side of a video a motif or a distractor is seen, and something that passes by, which changes from frame to
frame and that no other video has. A crop is eight frames, every one, every second or every fourth, of one side. Its
feature is what a small fixed network makes of them: the mean of the frames, and the mean of a rectified projection of
what changed from each frame to the next. So crops that overlap share what they share, and the changes of a fast crop
are the larger ones; neither was written into a feature.

Legend: N videos, V crops, F frames a crop, T frames a video, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _latent_actions import LatentActions, unit, what_is_shown
from scipy.signal import lfilter


@dataclass(frozen=True)
class Moving:
    """How videos move and are watched; lengths are in units of a motif's norm."""

    frames_per_second: int = 10
    num_frames: int = 8
    """Of a crop."""
    strides: tuple[int, ...] = (1, 2, 4)
    passing: float = 0.5
    """Norm of what passes by."""
    passing_s: float = 1.0
    """Seconds after which it is alike to 1 / e."""
    changes: float = 0.4
    """How much of the changes from frame to frame enters the feature."""
    noise: float = 0.3
    """Norm of what two looks at the same frames differ by."""
    distractor_s: float = 2.0
    """Seconds that a distractor stays."""


def generate_moving(
    config: LatentActions, moving: Moving, num_videos: int, *, world: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Draw videos of one world.

    Parameters
    ----------
    config : LatentActions
        Of its strengths `background` and `distractors` count, of its times `seconds`.
    moving : Moving
    num_videos : int
    world : int
        Seed of motifs, distractors, actions and of the network that looks at crops; all videos of a world share it.
    seed : int
        Seed of the videos.

    Returns
    -------
    features : ndarray
        (N, V, D) float32.
    raw_geometry : ndarray
        (N, V, 9) float32: one box a side.
    labels : ndarray
        (N,) int64.
    """
    fixed, random = np.random.default_rng([world, 0]), np.random.default_rng([world, 2, seed])
    motifs, distractors, arranged = what_is_shown(config, fixed)
    rectified = fixed.normal(size=(config.dim, config.dim)) / np.sqrt(config.dim)
    rate, sides = moving.frames_per_second, config.num_sides

    labels = random.integers(config.num_actions, size=num_videos)
    length = (random.uniform(*config.seconds, size=num_videos) * rate).astype(int)
    longest = int(config.seconds[1] * rate)
    shape = (num_videos, config.num_crops)
    side = random.integers(sides, size=shape)
    stride = random.choice(moving.strides, size=shape)
    covered = stride * moving.num_frames
    start = (random.random(shape) * (length[:, None] - covered + 1)).astype(int)
    at = start[..., None] + stride[..., None] * np.arange(moving.num_frames)

    video, side_of = np.arange(num_videos)[:, None, None], side[..., None]
    when = at * config.num_times // length[:, None, None]
    seen = motifs[arranged[labels[:, None, None], when, side_of]]
    slot = at // int(moving.distractor_s * rate)
    slots = (num_videos, sides, int(slot.max()) + 1)
    which = np.where(random.random(slots) < config.distractors, random.integers(len(distractors), size=slots), -1)
    distractor = which[video, side_of, slot]
    seen = np.where(distractor[..., None] >= 0, distractors[distractor], seen)
    alike = np.exp(-1 / (rate * moving.passing_s))
    shocks = random.normal(size=(num_videos, sides, longest, config.dim)).astype(np.float32)
    shocks[:, :, 1:] *= np.sqrt(1 - alike**2)  # as strong at first as ever after
    passing = lfilter([1.0], [1.0, -alike], shocks, axis=2)[video, side_of, at] * moving.passing / np.sqrt(config.dim)

    changes = np.maximum(np.diff(passing, axis=2) @ rectified, 0).mean(2) / moving.passing
    own = unit(random.normal(size=(num_videos, 1, config.dim))) * config.background
    noise = random.normal(size=(*shape, config.dim)) * moving.noise / np.sqrt(config.dim)
    features = (seen + passing).mean(2) + own + moving.changes * np.sqrt(config.dim) * changes + noise

    left, zero = side * 200, np.zeros(shape)
    columns = (
        start / rate, (start + covered) / rate, zero, left, zero + 120, left + 120, random.integers(2, size=shape),
        stride, start,
    )  # fmt: skip
    return features.astype(np.float32), np.stack(columns, -1).astype(np.float32), labels
