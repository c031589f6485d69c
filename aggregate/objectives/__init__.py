"""What training minimises: small functions on tensors, and modules that feed them."""

from aggregate.objectives.build import build_objective
from aggregate.objectives.compose import WeightedSum
from aggregate.objectives.contrast import info_nce, unit
from aggregate.objectives.interface import EncodedSets, Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.masked_crops import MaskedCropModelling, masked_crop_loss, nearest_in_other_sets
from aggregate.objectives.set_contrast import NTXent, SetContrast, nt_xent_loss, set_contrast_loss
from pipeline.recipe.kinds import load_modules

load_modules(__name__)

__all__ = [
    "EncodedSets",
    "MaskedCropModelling",
    "NTXent",
    "Objective",
    "ObjectiveInput",
    "ObjectiveResult",
    "SetContrast",
    "WeightedSum",
    "build_objective",
    "info_nce",
    "masked_crop_loss",
    "nearest_in_other_sets",
    "nt_xent_loss",
    "set_contrast_loss",
    "unit",
]
