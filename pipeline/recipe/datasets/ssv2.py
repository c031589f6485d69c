"""Something-Something v2."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class SomethingDataset(PublishedDataset):
    """Something-Something v2: `<id>.webm`; labels, train, validation and test as JSON. Measure on `side: val`."""

    kind: Literal["ssv2"]
