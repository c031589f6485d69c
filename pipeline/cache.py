"""Where on this machine things are kept that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `SCALE_CACHE`, or the user's cache folder."""
    if given := os.environ.get("SCALE_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scale-pipeline"
