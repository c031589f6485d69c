"""Diving48."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class Diving48Dataset(PublishedDataset):
    """Diving48: `<vid_name>.mp4`; Diving48_V2_train.json, Diving48_V2_test.json, and the vocabulary for names."""

    kind: Literal["diving48"]
