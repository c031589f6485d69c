"""Objectives that compare what a crop shows with how it moves: CoCLR, MaCLR, MSCL, and an image stream as target."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.recipe.base import LATER
from pipeline.recipe.objectives.base import ObjectiveBase


class CoclrObjective(ObjectiveBase):
    """CoCLR (Han, Xie, Zisserman; NeurIPS 2020): positives of one stream are neighbours in the other, in turn."""

    kind: Literal["coclr"]
    max_streams: ClassVar[int] = 2
    top_k: int = Field(5, ge=0)
    """Videos mined as further positives."""
    temperature: float = Field(0.07, gt=0)
    cycles: int = Field(2, ge=1)
    """How often each stream gets its turn."""
    siblings: bool = False
    """Videos of the same group are positives, too."""
    mine: Annotated[Literal["batch", "store"], LATER] = "batch"
    """Among whom: the videos of the step, or all that are trained on, each by its newest key."""
    mine_from: Annotated[float, Field(ge=0, le=1), LATER] = 0.0
    """Share of the training after which neighbours count. Before, each stream learns from its own pairs alone, as the
    paper's first stage: neighbours in a network that has learned nothing are chance."""


class MaclrObjective(ObjectiveBase):
    """MaCLR (Xiao et al.; ECCV 2022): set contrast within the first stream, and between it and the motion stream."""

    kind: Literal["maclr"]
    max_streams: ClassVar[int] = 2
    temperature: float = Field(0.1, gt=0)
    motion_weight: float = Field(1.0, ge=0)


class MsclObjective(ObjectiveBase):
    """MSCL (Ni et al.; ECCV 2022): a crop of one stream finds itself among the other stream's crops of its video."""

    kind: Literal["mscl"]
    max_streams: ClassVar[int] = 2
    temperature: float = Field(0.07, gt=0)
    set_weight: float = Field(1.0, ge=0)
    """Of the contrast between both streams' set tokens."""
    local_weight: float = Field(1.0, ge=0)
    """Of the contrast between crops."""
    turned: Annotated[str | None, LATER] = None
    """The second stream's crops with what moves going the other way (stream `flow_turned`), as `crop set/feature set`:
    further crops that one of the first stream must be told from. They are negatives alone and never embedded."""

    @property
    def negatives_from(self) -> tuple[str, ...]:
        """The turned crops, where crops are compared at all."""
        return () if self.turned is None or self.local_weight == 0 else (self.turned,)


class IbootObjective(ObjectiveBase):
    """iBoot (Saha et al., arXiv 2206.08339): the set token of one stream predicts the pooled features of the other."""

    kind: Literal["iboot"]
    max_streams: ClassVar[int] = 2
    both_ways: bool = True
