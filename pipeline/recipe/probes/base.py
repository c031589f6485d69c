"""What all probes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import LATER, Spec
from pipeline.recipe.training import ModelNames


class ProbeBase(Spec):
    """What all probes share."""

    crops: str
    """Crop set whose features are read."""
    backbone: str | None = None
    """Feature set; None: every feature set of the recipe's backbones."""
    models: ModelNames = None
    """Models whose embeddings are read, one or a list; None: all of the recipe."""
    split: str = "1"
    side: Annotated[Literal["test", "val"], LATER] = "test"
    """Which side of the split is measured; val where the labels of test are not given out. Tables then say `1/val`."""
    seed: int = Field(0, ge=0, lt=2**32)
    leak_threshold: float = Field(0.98, gt=0, le=1)
    """Cosine of mean-pooled, train-centred features from which a test and a train video count as near-duplicates."""
    exclude_leaks: bool = False
    """Leave out test videos that are near-duplicates of train videos, instead of only reporting them."""

    @property
    def feature_set(self) -> str | None:
        """The feature set that is read, which the recipe calls `backbone`."""
        return self.backbone

    @property
    def measured_split(self) -> str:
        """The split's name, with the side where it is not test."""
        return self.split if self.side == "test" else f"{self.split}/{self.side}"

    if TYPE_CHECKING:  # fields of each kind

        @property
        def kind(self) -> str:
            """Name of the kind."""

        @property
        def readouts(self) -> tuple[str, ...]:
            """How videos are read."""

    @property
    def also_reads(self) -> tuple[str, ...]:
        """Further feature sets of the same crops that it compares with."""
        return ()

    @property
    def reads(self) -> tuple[str, ...]:
        """The readouts that are measured."""
        return tuple(self.readouts)
