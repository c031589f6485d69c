"""A video as a recipe names it, before anybody looked into it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from extract.places.elsewhere import Elsewhere, Place


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video that the recipe names; the file may be missing or broken."""

    video_id: str
    """Path relative to the data folder, with ``/``, or the address; bytes that are not UTF-8 are written ``\\xd3``."""
    path: Place
    columns: Mapping[str, object] = field(default_factory=dict, compare=False)
    """Its row of the manifest, or what its shard says of it."""
    start_s: float | None = None
    """Where the row begins in its file, in seconds after the first frame; None: the whole file."""
    end_s: float | None = None

    @property
    def uri(self) -> str:
        """The address; ``file://`` with every odd byte percent-encoded, so that the path can be had back exactly."""
        if isinstance(self.path, Elsewhere):
            return self.path.address
        return Path(os.path.abspath(self.path)).as_uri()


def path_id(path: Path, root: Path) -> str:
    """Return a video's id: its path relative to the data folder, as text whatever bytes it holds."""
    path, root = (Path(os.path.normpath(folder)) for folder in (path, root))  # a/../a/x is a/x
    try:
        relative = os.fsencode(path.relative_to(root).as_posix())
    except ValueError:
        relative = os.fsencode(path.as_posix())
    return relative.decode("utf-8", "backslashreplace")
