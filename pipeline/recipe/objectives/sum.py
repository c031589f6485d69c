"""A weighted sum of objectives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PlainValidator, SerializeAsAny, TypeAdapter, model_validator

from pipeline.recipe.objectives.base import ObjectiveBase


def _objective(value: Any) -> ObjectiveBase:
    from pipeline.recipe.objectives import ObjectiveSpec  # its kinds, this one among them, must be known first

    part: ObjectiveBase = TypeAdapter(ObjectiveSpec).validate_python(value)
    return part


class SumObjective(ObjectiveBase):
    """Several objectives on the same sets: the mean of their losses by weight, as SCALE weighs its two."""

    kind: Literal["sum"]
    parts: tuple[SerializeAsAny[Annotated[ObjectiveBase, PlainValidator(_objective)]], ...] = Field(min_length=1)
    """Each as it would stand alone: `{kind: carl, sigma: 2}`. Crops hidden for one of them are hidden for all."""
    weights: tuple[NonNegativeFloat, ...] = ()
    """One a part; none given: all the same. A part of weight 0 is not built, and costs nothing."""

    @model_validator(mode="after")
    def _weights_fit(self) -> SumObjective:
        if self.weights and len(self.weights) != len(self.parts):
            raise ValueError(f"expected one weight a part ({len(self.parts)}), found {len(self.weights)}")
        if not self.weighted:
            raise ValueError("expected a weight above 0, found none")
        shares = {part.hidden_share for _, part in self.weighted if part.hidden_share}
        if len(shares) > 1:
            raise ValueError(f"expected parts with one mask_ratio, or 0, found {sorted(shares)}")
        if len(self.negatives_from) > 1:
            raise ValueError(f"expected parts with one feature set of negatives, found {list(self.negatives_from)}")
        return self

    @property
    def weighted(self) -> tuple[tuple[float, ObjectiveBase], ...]:
        """(weight, part) of every part that counts."""
        weights = self.weights or (1.0,) * len(self.parts)
        return tuple((w, part) for w, part in zip(weights, self.parts, strict=True) if w > 0)

    @property
    def streams_at_most(self) -> int:
        """As many as the part that can take most."""
        return max(part.streams_at_most for _, part in self.weighted)

    @property
    def negatives_from(self) -> tuple[str, ...]:
        """Those of the parts that count."""
        return tuple(dict.fromkeys(label for _, part in self.weighted for label in part.negatives_from))

    @property
    def hidden_share(self) -> float:
        """That of the parts that hide crops."""
        return max(part.hidden_share for _, part in self.weighted)
