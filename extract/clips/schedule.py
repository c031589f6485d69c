"""Which videos are in which step, and whose clips must be at hand by then: a function of (seed, step) alone.

The videos of an epoch are divided into as many parts as the bound on kept clips asks for (usually one). A *drawing* is
the clips of one part, decoded once and seen `reuse` times; then the next part comes, and after the last one all clips
are drawn anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from extract.crops.draws import Draws
from pipeline.errors import InvalidInputError


@dataclass(frozen=True)
class Drawing:
    """Clips that are decoded together: the `part` of the videos in the `generation` of their crops."""

    generation: int
    part: int


@dataclass(frozen=True)
class Place:
    """Where a step is: which drawing, and which of its videos."""

    drawing: Drawing
    positions: np.ndarray
    """(B,) int64 among the videos of the drawing."""


@dataclass(frozen=True)
class Schedule:
    """The order of a training.

    Parameters
    ----------
    num_videos, batch_size, epochs, reuse, num_parts, seed : int
    """

    num_videos: int
    batch_size: int
    epochs: int
    reuse: int
    num_parts: int
    seed: int

    @property
    def videos_a_step(self) -> int:
        """Videos in a batch: those asked for, or all of the smallest part."""
        return min(self.batch_size, self.num_videos // self.num_parts)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of all parts."""
        return sum(self._steps_of(part) for part in range(self.num_parts))

    def members(self, drawing: Drawing) -> np.ndarray:
        """Return which videos a drawing is of, (n,) int64 ascending."""
        order = self._permutation(self.num_videos, "parts", drawing.generation)
        return np.sort(np.array_split(order, self.num_parts)[drawing.part])

    def place(self, step: int) -> Place:
        """Return where a step is.

        Raises
        ------
        InvalidInputError
            If it comes after the last one.
        """
        total = self.steps_per_epoch * self.epochs
        if step >= total:
            raise InvalidInputError(f"expected one of the {total} steps of {self.epochs} epochs, found step {step}")
        epochs_at_once = self.steps_per_epoch * self.reuse
        generation, inside = divmod(step, epochs_at_once)
        passes = min(self.reuse, self.epochs - generation * self.reuse)
        part = 0
        while inside >= passes * self._steps_of(part):
            inside -= passes * self._steps_of(part)
            part += 1
        number, batch = divmod(inside, self._steps_of(part))
        drawing = Drawing(generation, part)
        order = self._permutation(self._size_of(part), "order", generation, part, number)
        size = self.videos_a_step
        return Place(drawing, order[batch * size : (batch + 1) * size])

    def after(self, drawing: Drawing) -> Drawing | None:
        """Return the drawing that comes next; None after the last."""
        if drawing.part + 1 < self.num_parts:
            return Drawing(drawing.generation, drawing.part + 1)
        following = drawing.generation + 1
        return Drawing(following, 0) if following * self.reuse < self.epochs else None

    def _size_of(self, part: int) -> int:
        whole, rest = divmod(self.num_videos, self.num_parts)
        return whole + (part < rest)

    def _steps_of(self, part: int) -> int:
        return self._size_of(part) // self.videos_a_step

    def _permutation(self, size: int, *purpose: str | int) -> np.ndarray:
        return np.argsort(Draws("pretrain", self.seed, *purpose).unit(size), kind="stable")
