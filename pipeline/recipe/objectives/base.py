"""What all objectives share."""

from __future__ import annotations

from typing import ClassVar

from pipeline.recipe.base import Spec


class ObjectiveBase(Spec):
    """What training minimises. Kinds are the classes below it, a file each; one that hides crops has a `mask_ratio`."""

    kind: str
    max_streams: ClassVar[int] = 1
    """How many feature sets it can be trained on at once."""

    @property
    def hidden_share(self) -> float:
        """Share of the crops that are hidden from the network."""
        return float(getattr(self, "mask_ratio", 0.0))
