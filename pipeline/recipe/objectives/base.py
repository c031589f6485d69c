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
    def streams_at_most(self) -> int:
        """How many feature sets these fields let it be trained on."""
        return self.max_streams

    @property
    def negatives_from(self) -> tuple[str, ...]:
        """Feature sets of the same crops that serve as negatives alone, as `crop set/feature set`: one at most."""
        return ()

    @property
    def hidden_share(self) -> float:
        """Share of the crops that are hidden from the network."""
        return float(getattr(self, "mask_ratio", 0.0))
