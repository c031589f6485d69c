"""What published data sets share."""

from __future__ import annotations

from typing import Literal

from pipeline.recipe.dataset import DatasetBase


class PublishedDataset(DatasetBase):
    """A data set whose folder of videos and whose annotations lie as they were downloaded."""

    videos: str
    """Folder of the videos, below the data folder."""
    annotations: str | list[str]
    """Folder of the annotation files, or the files themselves."""
    absent: Literal["row", "skip"] = "row"
    """Annotated videos that are not there: rows with the status missing, taken in when they come; or left out."""
