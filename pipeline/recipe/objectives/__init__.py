"""Objectives: what training minimises, one file a kind (`docs/extending.md`)."""

from typing import Annotated

from pipeline.recipe.kinds import Kinds
from pipeline.recipe.objectives.base import ObjectiveBase
from pipeline.recipe.objectives.scale import ScaleObjective

OBJECTIVES = Kinds("scale.objectives", ObjectiveBase, __name__, default="scale")
ObjectiveSpec = Annotated[ObjectiveBase, OBJECTIVES]

__all__ = ["OBJECTIVES", "ObjectiveBase", "ObjectiveSpec", "ScaleObjective"]
