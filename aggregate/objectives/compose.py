"""Objectives out of objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from aggregate.data.sets import Splitter
from aggregate.network.model import ScaleModel
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
        self.num_streams = max(part.num_streams for _, part in kept)
        self.needs_negatives = any(part.needs_negatives for _, part in kept)

    @property
    def _objectives(self) -> list[Objective]:
        return [cast(Objective, part) for part in self.parts]

    def expect(self, num_videos: int) -> None:
        """Tell every part."""
        for part in self._objectives:
            part.expect(num_videos)

    def bind(self, models: Mapping[str, ScaleModel]) -> None:
        """Bind every part."""
        for part in self._objectives:
            part.bind(models)

    def splitter(self, set_size: int) -> Splitter | None:
        """Return the first part's that has a wish.

        Raises
        ------
        InvalidInputError
            If two parts want their crops dealt differently.
        """
        wishes = {type(part).__name__: part.splitter(set_size) for part in self._objectives}
        wishes = {name: wish for name, wish in wishes.items() if wish is not None}
        if len(wishes) > 1:
            raise InvalidInputError(
                f"expected parts that share their sets, found {' and '.join(wishes)}; train two models"
            )
        return next(iter(wishes.values()), None)

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Sum the parts; their figures are merged."""
        results = [part(inputs) for part in self.parts]
        loss = results[0].loss * self.weights[0]
        for weight, result in zip(self.weights[1:], results[1:], strict=True):
            loss = loss + weight * result.loss
        chances = [result.chance for result in results]
        chance = None
        if all(value is not None for value in chances):
            chance = sum(w * value for w, value in zip(self.weights, chances, strict=True) if value is not None)
        logs = {key: value for result in results for key, value in result.logs.items()}
        return ObjectiveResult(loss, logs, chance)
