"""What goes along with a training: each hook has its own state and does one thing after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from aggregate.data.batch import SetBatch


@dataclass(frozen=True)
class StepDone:
    """What one optimiser step left.

    Attributes
    ----------
    number : int
        Steps done, this one counted.
    loss : Tensor
        Detached, on the device; NaN where the gradient was not finite.
    logs : mapping
        The objective's figures, detached, on the device.
    rate : float
        Learning rate.
    batch : SetBatch
        The last that was scored.
    """

    number: int
    loss: Tensor
    logs: Mapping[str, Tensor]
    rate: float
    batch: SetBatch


class Hook:
    """Base of all hooks: does nothing. They are called in the order in which the trainer holds them."""

    def begin(self, first: int) -> None:
        """Take note that the training begins, or goes on after `first` steps."""

    def after(self, step: StepDone) -> None:
        """Do what is to be done after a step."""

    def end(self, last: StepDone) -> None:
        """Do what is to be done after the last step of all; not called where there was no step left to do."""

    def close(self) -> None:
        """Let go of what is held open, however the training ended."""

    def state(self) -> Mapping[str, Any]:
        """Return what a resumed training needs of this hook, JSON-like; names are the checkpoint's."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of a checkpoint, which holds that of all hooks."""
