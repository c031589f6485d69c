"""Charades."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class CharadesDataset(PublishedDataset):
    """Charades: `<id>.mp4`; Charades_v1_train.csv, Charades_v1_test.csv, and Charades_v1_classes.txt for names."""

    kind: Literal["charades"]
    rows: Literal["videos", "actions"] = "videos"
    """videos: a row is a video with all its actions. actions: a row is the part of a video that shows one."""
