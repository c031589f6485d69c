"""Kinetics-400, -600 and -700."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.datasets.base import PublishedDataset


class KineticsDataset(PublishedDataset):
    """Kinetics: CSV files with youtube_id, time_start, time_end (label, split); clips as downloaders name them."""

    kind: Literal["kinetics"]
    whole_videos: bool = False
    """Files named by the id alone are whole videos, of which a row is the part in the table; else they are clips."""
