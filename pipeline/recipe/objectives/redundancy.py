"""Objectives without negatives: VICReg and Barlow Twins."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class VicregObjective(ObjectiveBase):
    """VICReg (Bardes, Ponce, LeCun; ICLR 2022): views of a video agree, outputs vary, and do so independently."""

    kind: Literal["vicreg"]
    invariance: float = Field(25.0, ge=0)
    variance: float = Field(25.0, ge=0)
    covariance: float = Field(1.0, ge=0)


class BarlowTwinsObjective(ObjectiveBase):
    """Barlow Twins (Zbontar et al.; ICML 2021): the cross-correlation of two views is the identity."""

    kind: Literal["barlow_twins"]
    off_diagonal: float = Field(5e-3, ge=0)
