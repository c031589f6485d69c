"""Objectives that work on the crops of a set one by one: ConST-CL's reconstruction, STC-Mix."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pipeline.recipe.objectives.base import ObjectiveBase


class ConstClObjective(ObjectiveBase):
    """ConST-CL (Yuan et al.; CVPR 2022): a crop of one set is reconstructed as the other set of its video shows it."""

    kind: Literal["const_cl"]
    temperature: float = Field(0.1, gt=0)
    """Of the contrast between set tokens."""
    local_temperature: float = Field(0.2, gt=0)
    local_weight: float = Field(0.001, ge=0)
    """Of the reconstruction. 0.001 is the released code's; at 0 there is no decoder."""
    heads: int = Field(4, ge=1)
    """Of the decoder; the network's width is a multiple of it."""


class StcMixObjective(ObjectiveBase):
    """STC-Mix / CMMC (arXiv 2112.03906): sets with a stretch of another video pasted in belong to both, by share."""

    kind: Literal["stc_mix"]
    max_streams: ClassVar[int] = 2
    across: bool = False
    """Whether the stretch shows the other video in the second stream."""
    temperature: float = Field(0.1, gt=0)
    mix_weight: float = Field(1.0, ge=0)
    """Of the mixed sets beside the contrast of whole ones; at 0 nothing is mixed."""
    max_share: float = Field(0.5, gt=0, lt=1)
    """Most of a set that is replaced; each step draws a share up to it."""

    @property
    def streams_at_most(self) -> int:
        """Two where it mixes across streams."""
        return 2 if self.across else 1
