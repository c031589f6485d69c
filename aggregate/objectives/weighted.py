"""The objective `sum` of a recipe: parts that count are built, others are not."""

from __future__ import annotations

from aggregate.objectives.build import build_objective
from aggregate.objectives.compose import WeightedSum
from pipeline.recipe.objectives.sum import SumObjective


@build_objective.register
def build_sum(spec: SumObjective) -> WeightedSum:
    """Build every part with a weight above 0."""
    return WeightedSum([(weight, build_objective(part)) for weight, part in spec.weighted])
