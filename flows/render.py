"""What the report needs from other rooms: frames of videos for its neighbour strips."""

from __future__ import annotations

from typing import Any

from pipeline import FeatureStore
from pipeline.settings import Settings


def probe_options(store: FeatureStore, settings: Settings) -> dict[str, Any]:
    """Return the keyword arguments that `run_probe` gets from outside its own room."""
    return {}
