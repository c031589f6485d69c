"""Whose row it is: a ledger row names its video, so that a row number alone never decides whose features come back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np

from pipeline.errors import WrongVideoError


class Binding(Protocol):
    """Which video the catalogue has in which row; see :class:`pipeline.store.video_rows.VideoRows`."""

    @property
    def removed_rows(self) -> np.ndarray:
        """Rows whose videos were removed, ascending, int64."""

    def keys(self, start: int, stop: int) -> np.ndarray:
        """Return the keys of the rows ``[start, stop)``, uint64.

        Raises
        ------
        WrongVideoError
            If the catalogue, looked at again, has no such rows.
        """


NOBODY = 0
"""The key of a row whose video was removed: an entry may still name the one it was, until it is erased."""


def video_keys(video_ids: Iterable[str]) -> np.ndarray:
    """Return the key of every video: the first 8 bytes (little endian) of the sha256 of its id, uint64."""
    parts = [hashlib.sha256(video_id.encode()).digest()[:8] for video_id in video_ids]
    return np.frombuffer(b"".join(parts), "<u8")


def check_binding(found: np.ndarray | None, start: int, stop: int, binding: Binding, *, what: str) -> None:
    """Hold the rows ``[start, stop)`` of an entry to the catalogue's videos.

    Parameters
    ----------
    found : ndarray or None
        The keys in the entry. None: schema 1 wrote it, its rows name no video and only have to lie inside.

    Raises
    ------
    WrongVideoError
        If a row is another video's, or lies beyond the catalogue.
    """
    expected = binding.keys(start, stop)
    if found is None or np.array_equal(found, expected):
        return
    bad = (start + np.flatnonzero((found != expected) & (expected != NOBODY))).tolist()
    if not bad:
        return
    raise WrongVideoError(
        f"{what}: expected the results of the videos that the catalogue has in its rows, found those of other videos "
        f"in row(s) {', '.join(map(str, bad[:5]))}{' ...' if len(bad) > 5 else ''}; nothing was returned. A catalogue "
        "file or a ledger entry is not the one that was written here: see `scale verify`"
    )
