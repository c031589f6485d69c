"""SCALE's objective from its section of a recipe."""

from __future__ import annotations

from aggregate.objectives.build import build_objective
from aggregate.objectives.compose import WeightedSum
from aggregate.objectives.interface import Objective
from aggregate.objectives.masked_crops import MaskedCropModelling
from aggregate.objectives.set_contrast import NTXent, SetContrast
from pipeline.recipe.objectives import ScaleObjective


@build_objective.register
def build_scale(spec: ScaleObjective) -> Objective:
    """Build the weighted sum, one of its halves, or the control."""
    mcm = MaskedCropModelling(spec.temperature, spec.negatives, spec.positives)
    contrast = SetContrast(spec.temperature, spec.negatives)
    if spec.kind == "mcm":
        return mcm
    if spec.kind == "set":
        return contrast
    if spec.kind == "ntxent":
        return NTXent(spec.temperature, spec.negatives)
    return WeightedSum([(spec.set_weight, contrast), (spec.mcm_weight, mcm)])
