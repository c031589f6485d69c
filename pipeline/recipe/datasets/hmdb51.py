"""HMDB51 and J-HMDB."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class Hmdb51Dataset(PublishedDataset):
    """HMDB51, J-HMDB: `<class>/*.avi`; `<class>_test_split<1-3>.txt`: 1 train, 2 test, 0 neither. Splits 1, 2, 3."""

    kind: Literal["hmdb51", "jhmdb"]
