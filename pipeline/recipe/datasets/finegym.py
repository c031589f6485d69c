"""FineGym."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class FineGymDataset(PublishedDataset):
    """FineGym: gym99 or gym288 lists of elements; cut files `<element>.mp4`, or whole videos and the JSON."""

    kind: Literal["finegym"]
    classes: Literal["gym99", "gym288"] = "gym99"
