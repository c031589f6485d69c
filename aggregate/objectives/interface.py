"""What every objective sees and returns.

An objective is a module (it may own parameters: prototypes, a distance head)
called with everything a training step knows. That is enough for SCALE and,
unchanged, for its neighbours: ordered tokens (`raw_geometry` is in seconds and
pixels), two streams (`online["rgb"]`, `online["tgrad"]`), teacher networks
(`teacher[...]`, filled where `needs_teacher`), curricula (`progress`), overlapping
sets (any splitter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from aggregate.data.batch import SetBatch
from aggregate.data.sets import Splitter
from aggregate.network.model import ScaleModel

MAIN_STREAM = "main"
"""Key of the stream that a single-stream training encodes."""

TokensNeeded = Literal["none", "masked", "all"]


@dataclass(frozen=True)
class EncodedSets:
    """One stream's sets after one network.

    Attributes
    ----------
    model : ScaleModel
        Whose heads score them.
    batch : SetBatch
    set_tokens : Tensor
        (B, S, d).
    tokens : Tensor or None
        masked: (M, d), rows as ``batch.masked_index``; all: (B, S, V, d); None where none were asked for.
    read : Tensor or None
        (B, S, V, d): crops as the network projected them; None where it was compiled.
    """

    model: ScaleModel
    batch: SetBatch
    set_tokens: Tensor
    tokens: Tensor | None
    read: Tensor | None = None

    def projected(self, videos: Tensor, sets: slice | int) -> Tensor:
        """Return what of the crops of some sets enters their tokens: (B', S', V, d), or (B', V, d) of one set."""
        if self.read is not None:
            return self.read[videos, sets]
        return self.model.project(self.batch.features[videos, sets], self.batch.valid[videos, sets])


@dataclass(frozen=True)
class ObjectiveInput:
    """Everything a training step knows.

    Attributes
    ----------
    online : mapping
        Stream -> sets encoded by the network being trained.
    teacher : mapping
        Stream -> the same sets, unmasked, encoded by its moving average without gradient.
    step : int
        Optimiser steps done.
    progress : float
        Share of the training done, 0..1.
    negatives : EncodedSets or None
        The same sets of crops that are negatives alone, encoded by the last stream's network; where `needs_negatives`.
    """

    online: Mapping[str, EncodedSets]
    teacher: Mapping[str, EncodedSets] = field(default_factory=dict)
    step: int = 0
    progress: float = 0.0
    negatives: EncodedSets | None = None

    @property
    def main(self) -> EncodedSets:
        """The only stream, or the one called `main`."""
        if len(self.online) == 1:
            return next(iter(self.online.values()))
        return self.online[MAIN_STREAM]

    @property
    def pair(self) -> tuple[EncodedSets, EncodedSets]:
        """The first two streams."""
        first, second = list(self.online.values())[:2]
        return first, second


@dataclass(frozen=True)
class ObjectiveResult:
    """A scalar to minimise, and detached figures to log.

    Attributes
    ----------
    loss : Tensor
    logs : mapping
    chance : float or None
        What the loss is where nothing is told apart; a training that ends there has learned nothing.
    """

    loss: Tensor
    logs: Mapping[str, Tensor]
    chance: float | None = None


class Objective(nn.Module):
    """Base of all objectives: says what it needs, and maps a step's knowledge to a loss.

    Attributes
    ----------
    needs_tokens : {"none", "masked", "all"}
        Which contextual tokens must be computed beside the set tokens.
    needs_teacher : bool
        Whether the trainer must keep a moving average and encode with it.
    masks : bool
        Whether crops are masked for it.

    num_streams : int
        How many feature sets of the same crops it compares.
    needs_negatives : bool
        Whether one more feature set, behind those of the streams, must be encoded as negatives.
    """

    needs_tokens: TokensNeeded = "none"
    needs_teacher: bool = False
    masks: bool = False
    num_streams: int = 1
    needs_negatives: bool = False

    def expect(self, num_videos: int) -> None:
        """Take note of how many videos are trained on. Called once, before :meth:`bind`."""

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Make what depends on the networks' widths (heads, prototypes). Called once, before training.

        Parameters
        ----------
        models : mapping
            Stream -> its network, in the order of the recipe's features.

        Raises
        ------
        InvalidInputError
            If a network shows what the objective asks it to find out.
        """

    def splitter(self, set_size: int) -> Splitter | None:
        """Return how crops are dealt into sets for it; None: two disjoint random sets."""
        return None

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score one step."""
        raise NotImplementedError
