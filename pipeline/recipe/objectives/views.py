"""Objectives on long and short sets of a video: TeG, and self-distillation as SVT does it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import LATER
from pipeline.recipe.objectives.base import ObjectiveBase


class TegObjective(ObjectiveBase):
    """TeG (Qian et al.; ICCV 2022): a short set agrees with a long one crop by crop in time, and as a whole."""

    kind: Literal["teg"]
    fine_weight: float = Field(0.5, ge=0, le=1)
    """Of the contrast between crops; the rest is the contrast between sets."""
    window: float = Field(0.25, gt=0, le=1)
    """Length of the short set's window, as a share of the video."""
    temperature: float = Field(0.1, gt=0)


class SvtObjective(ObjectiveBase):
    """SVT (Ranasinghe et al.; CVPR 2022): sets inside short windows match a teacher that sees the whole video."""

    kind: Literal["svt"]
    num_global: int = Field(2, ge=1)
    num_local: int = Field(4, ge=0)
    window: float = Field(0.125, gt=0, le=1)
    """Length of a local set's window, as a share of the video."""
    student_temperature: float = Field(0.1, gt=0)
    teacher_temperature: float = Field(0.04, gt=0)
    centre_momentum: float = Field(0.9, ge=0, lt=1)
    outputs: Annotated[int | None, Field(ge=2), LATER] = None
    """What is told apart: so many unit vectors that unit projections are compared with, as DINO's last layer; student
    and teacher share them. None: the channels of the projection as they are, whose differences are small at first."""
    frozen_until: Annotated[float, Field(ge=0, le=1), LATER] = 0.0
    """Share of the training in which `outputs` stay as they are drawn (DINO: the first epoch)."""
