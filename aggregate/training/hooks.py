"""What goes along with a training: each hook has its own state and does one thing after every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.recipe import PretrainSpec, TrainSpec


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
    batch : SetBatch or ClipBatch
        The last that was scored.
    num_items : int
        Videos, or clips, that it learned from.
    more : dict
        Figures that a hook measured after the step, for those behind it; they are always recorded.
    """

    number: int
    loss: Tensor
    logs: Mapping[str, Tensor]
    rate: float
    batch: Any
    num_items: int
    more: dict[str, float] = field(default_factory=dict)


class Learning(Protocol):
    """What is trained, as hooks know it: a set transformer's learner, or a backbone's."""

    device: torch.device

    @property
    def spec(self) -> TrainSpec | PretrainSpec:
        """Its section of the recipe."""

    def parameters(self) -> list[nn.Parameter]:
        """Return all that is optimised."""

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next step depends on, as named tensors."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put everything from :meth:`tensors` back in place."""

    def explain(self, step: StepDone, logs: Mapping[str, Tensor]) -> str:
        """Say why a loss or a weight is not finite, and what to change."""


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
