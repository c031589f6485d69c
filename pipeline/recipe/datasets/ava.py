"""AVA and AVA-Kinetics, refused by name."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from pipeline.recipe.dataset import DatasetBase


class AvaDataset(DatasetBase):
    """AVA and AVA-Kinetics are not read: their labels belong to boxes around people, not to videos or parts of them."""

    kind: Literal["ava", "ava_kinetics"]

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, content: Any) -> Any:
        raise ValueError(
            "expected a data set whose labels belong to videos or to parts of them; those of AVA and AVA-Kinetics "
            "belong to boxes around people, which no row can be. To use its videos, give them by a manifest with "
            "start_s and end_s"
        )
