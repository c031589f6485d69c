"""What globs meet and do not take, so that it can be said; and names whose blanks a table lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pipeline.storage.schema import STORE_KIND, ZARR_JSON

UNFINISHED = (".part", ".crdownload", ".download", ".ytdl", ".partial", ".aria2", ".tmp")
"""Ends of the names that downloaders give to files that are not whole yet."""


class PassedOver:
    """Files that a glob met and did not take, by reason: how many, and the first."""

    def __init__(self) -> None:
        self._found: dict[str, dict[Path, None]] = {}

    def add(self, reason: str, path: Path) -> None:
        """Note a file; the same one is counted once."""
        self._found.setdefault(reason, {})[path] = None

    def notes(self) -> list[str]:
        """Return one line a reason."""
        return [
            f"passed over {len(paths)} ({reason}), such as {next(iter(paths)).name!r}"
            for reason, paths in self._found.items()
        ]


def is_store(folder: Path) -> bool:
    """Whether a folder is a feature store of this project: what it holds are no videos."""
    try:
        attributes = json.loads((folder / ZARR_JSON).read_bytes()).get("attributes", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
    return isinstance(attributes, dict) and attributes.get("kind") == STORE_KIND


def with_its_spaces(path: Path) -> Path:
    """Return the file that a table means whose values lost the blanks around them; the path itself if it is there."""
    if os.path.lexists(path) or not os.path.isdir(path.parent):
        return path
    for entry in path.parent.iterdir():
        if entry.name != path.name and entry.name.strip() == path.name:
            return entry
    return path
