"""Objectives out of objectives."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult, TokensNeeded
from pipeline.errors import InvalidInputError

_MORE: dict[TokensNeeded, int] = {"none": 0, "masked": 1, "all": 2}


class WeightedSum(Objective):
    """``sum_k w_k L_k / sum_k w_k``, as SCALE weighs its two losses.

    Parameters
    ----------
    parts : sequence of (weight, Objective)
        Parts of weight zero are dropped, and cost nothing.

    Raises
    ------
    InvalidInputError
        If no part has a positive weight.
    """

    def __init__(self, parts: Sequence[tuple[float, Objective]]) -> None:
        super().__init__()
        kept = [(weight, part) for weight, part in parts if weight > 0]
        if not kept:
            raise InvalidInputError("expected at least one loss with a positive weight, found none")
        total = sum(weight for weight, _ in kept)
        self.weights = tuple(weight / total for weight, _ in kept)
        self.parts = nn.ModuleList(part for _, part in kept)
        self.needs_tokens = max((part.needs_tokens for _, part in kept), key=_MORE.__getitem__)
        self.needs_teacher = any(part.needs_teacher for _, part in kept)
        self.masks = any(part.masks for _, part in kept)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Sum the parts; their figures are merged."""
        results = [part(inputs) for part in self.parts]
        loss = results[0].loss * self.weights[0]
        for weight, result in zip(self.weights[1:], results[1:], strict=True):
            loss = loss + weight * result.loss
        return ObjectiveResult(loss, {key: value for result in results for key, value in result.logs.items()})
