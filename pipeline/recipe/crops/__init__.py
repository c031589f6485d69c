"""Crop policies: which boxes of space and time are drawn from every video; one file a policy.

A policy is pure configuration. The boxes come from :mod:`extract.crops.draw`. `docs/extending.md` adds one.
"""

from typing import Annotated

from pipeline.recipe.crops.base import CropPolicyBase
from pipeline.recipe.crops.dense import DensePolicy
from pipeline.recipe.crops.frames import FramesPolicy
from pipeline.recipe.crops.grid import GridPolicy
from pipeline.recipe.crops.imported import ImportedPolicy
from pipeline.recipe.crops.local_global import LocalGlobalPolicy
from pipeline.recipe.crops.random import ColourAugmentation, RandomPolicy
from pipeline.recipe.crops.speeds import SpeedsPolicy
from pipeline.recipe.kinds import Kinds

CROP_POLICIES = Kinds("scale.crop_policies", CropPolicyBase, __name__, key="policy")
CropPolicy = Annotated[CropPolicyBase, CROP_POLICIES]

__all__ = [
    "CROP_POLICIES",
    "ColourAugmentation",
    "CropPolicy",
    "CropPolicyBase",
    "DensePolicy",
    "FramesPolicy",
    "GridPolicy",
    "ImportedPolicy",
    "LocalGlobalPolicy",
    "RandomPolicy",
    "SpeedsPolicy",
]
