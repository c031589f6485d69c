"""From a recipe's section to the objective: one function, told by the section's class how to build it.

A file registers its objective with ``@build_objective.register``; all files of this folder are imported with it.
"""

from __future__ import annotations

from functools import singledispatch

from aggregate.objectives.interface import Objective
from pipeline.errors import InvalidInputError
from pipeline.recipe.objectives import ObjectiveBase


@singledispatch
def build_objective(spec: ObjectiveBase) -> Objective:
    """Build what a recipe's `objective` asks for.

    Parameters
    ----------
    spec : ObjectiveBase

    Raises
    ------
    InvalidInputError
        If nobody registered how to build this kind.
    """
    raise InvalidInputError(
        f"expected code for the objective {type(spec).__name__}, found none; register a function that builds it with "
        "aggregate.objectives.build_objective.register, in the module that holds the class"
    )
