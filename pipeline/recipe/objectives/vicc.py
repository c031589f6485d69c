"""ViCC: views of a video are assigned to the same prototypes, across streams if there are two."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from pipeline.recipe.base import LATER
from pipeline.recipe.objectives.base import ObjectiveBase


class ViccObjective(ObjectiveBase):
    """ViCC (Toering et al.; WACV 2022): prototypes, Sinkhorn assignments, a queue; one stream, or two in turn."""

    kind: Literal["vicc"]
    max_streams: ClassVar[int] = 2
    stage: Literal["single", "cross"] = "single"
    """single: two sets of one stream. cross: two sets of both streams, one stream learning at a time."""
    cycles: int = Field(2, ge=1)
    """cross: how often each stream gets its turn while the other stands still."""
    cross_from: Annotated[float, Field(ge=0, le=1), LATER] = 0.0
    """cross: share of the training after which streams look at each other. Before, each learns from its own two views,
    as the paper's first stage: a stream that has learned nothing has nothing to predict."""
    prototypes: int = Field(300, ge=2)
    frozen_until: Annotated[float, Field(ge=0, le=1), LATER] = 0.0
    """Share of the training in which prototypes stay as they are drawn (the paper: a fifth): before projections differ,
    prototypes that move make every prediction the same."""
    temperature: float = Field(0.1, gt=0)
    epsilon: float = Field(0.05, gt=0)
    """Of Sinkhorn: smaller assigns more sharply."""
    iterations: int = Field(3, ge=1)
    queue: int = Field(0, ge=0)
    """Videos of earlier steps that assignments are balanced over; 0: none."""
    queue_from: float = Field(0.3, ge=0, le=1)
    """Share of the training after which a full queue is used."""
