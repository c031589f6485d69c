"""EPIC-KITCHENS-100."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class EpicKitchensDataset(PublishedDataset):
    """EPIC-KITCHENS-100: rows are parts of videos `<video_id>.MP4`; EPIC_100_train.csv, EPIC_100_validation.csv."""

    kind: Literal["epic_kitchens"]
    label: Literal["verb", "noun", "action"] = "verb"
    """What the label is: the verb's class, the noun's, or both."""
