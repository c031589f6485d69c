"""What all objectives share."""

from __future__ import annotations

from pipeline.recipe.base import Spec


class ObjectiveBase(Spec):
    """What training minimises. Kinds are the classes below it, a file each; one that hides crops has a `mask_ratio`."""

    kind: str

    @property
    def hidden_share(self) -> float:
        """Share of the crops that are hidden from the network."""
        return float(getattr(self, "mask_ratio", 0.0))
