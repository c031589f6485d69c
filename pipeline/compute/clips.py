"""Clips on their way from whoever decodes them to whoever learns from them.

Legend: B = videos, W = clips a video, T = frames, S = side in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class ClipBatch:
    """The clips of B videos, as networks take them.

    Attributes
    ----------
    clips : mapping
        Stream -> (B, W, 3, T, S, S) float32 on the device, normalised.
    raw_geometry : Tensor
        (B, W, 9) float32 on the CPU, `pipeline.storage.schema.GEOMETRY_COLUMNS`.
    valid : Tensor
        (B, W) bool on the CPU.
    video_ids, group_ids : Tensor
        (B,) int64 on the CPU. Videos of one source share a group.
    """

    clips: Mapping[str, Tensor]
    raw_geometry: Tensor
    valid: Tensor
    video_ids: Tensor
    group_ids: Tensor

    def __len__(self) -> int:
        return self.valid.shape[0]

    @property
    def num_valid(self) -> int:
        """Clips that show something."""
        return int(self.valid.sum())


@dataclass(frozen=True)
class LabelledRows:
    """Rows of training groups that a pretraining does not see, to look at what it has learned.

    Attributes
    ----------
    rows : ndarray
        (n,) int64.
    labels : ndarray
        (n,) int64 classes.
    """

    rows: np.ndarray
    labels: np.ndarray


class ClipSource(Protocol):
    """Where a pretraining gets its clips from. Everything random is a function of (seed, step)."""

    @property
    def num_videos(self) -> int:
        """Videos that are learned from."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch."""

    @property
    def held_out(self) -> LabelledRows | None:
        """Rows for the kNN probe; None where none are held out, or none has a label."""

    @property
    def gallery(self) -> LabelledRows | None:
        """Rows that are learned from, with a label: the neighbours of the probe."""

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        """Hand out the batches of these steps, counted from the beginning of the training; the last one excluded."""

    def plain(self, rows: np.ndarray) -> Iterator[ClipBatch]:
        """Hand out the clips of these rows in order, not augmented."""

    def close(self) -> None:
        """End what it started."""
