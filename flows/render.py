"""What the report needs from other rooms: frames of videos for its neighbour strips."""

from __future__ import annotations

from typing import Any

from pipeline import FeatureStore
from pipeline.settings import Settings


def probe_options(dataset: str, store: FeatureStore, settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments that `run_probe` gets from outside its own room.

    Returns
    -------
    dict
        ``frames``: row -> JPEG files of the video, where the dataset exists already.
    """
    if dataset not in store.datasets():
        return {}
    from extract.pixels.thumbnails import catalogue_thumbnails

    return {"frames": catalogue_thumbnails(store.dataset(dataset).videos, settings)}
