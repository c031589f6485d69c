"""UCF101."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class Ucf101Dataset(PublishedDataset):
    """UCF101: `UCF-101/<class>/*.avi`; classInd.txt, trainlist01-03.txt, testlist01-03.txt. Splits 1, 2, 3."""

    kind: Literal["ucf101"]
    videos: str = "UCF-101"
    annotations: str | list[str] = "ucfTrainTestlist"
