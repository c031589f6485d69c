"""Whose row it is: a ledger row names its video, so that a row number alone never decides whose features come back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
import pyarrow as pa

from pipeline.errors import SnapshotChangedError, WrongVideoError


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

    def digest(self, start: int, stop: int) -> str:
        """Return the :func:`ids_digest` of the rows ``[start, stop)`` where a row's key is that of its id alone.

        Empty where a video was removed or catalogued again, or the catalogue has fewer rows.
        """

    def former(self, found: np.ndarray, start: int, stop: int) -> np.ndarray:
        """Return which of the keys that an entry has for ``[start, stop)`` are of earlier states of these rows, bool.

        What was made from the file before it was replaced counts no more, and is nobody else's either.
        """

    def has_former(self, start: int, stop: int) -> bool:
        """Whether a row of ``[start, stop)`` has another state than it was catalogued in."""

    def is_replaced_since(self, found: np.ndarray, start: int, stop: int) -> bool:
        """Whether some of the keys, and no others than these and the present ones, are of states that came later."""


NOBODY = 0
"""The key of a row whose video was removed: an entry may still name the one it was, until it is erased."""


def video_keys(video_ids: Iterable[str]) -> np.ndarray:
    """Return the key of every video: the first 8 bytes (little endian) of the sha256 of its id, uint64."""
    parts = [hashlib.sha256(video_id.encode()).digest()[:8] for video_id in video_ids]
    return np.frombuffer(b"".join(parts), "<u8")


def ids_digest(video_ids: pa.ChunkedArray) -> str:
    """Return the sha256 of videos' ids: the bytes of each as int32 (little endian), then all of them.

    One hash over a shard's ids takes a tenth of the time of one an id.
    """
    digest, texts = hashlib.sha256(), []
    for chunk in video_ids.chunks:
        if len(chunk):
            _, places, text = chunk.buffers()
            ends = np.frombuffer(places, "<i4", len(chunk) + 1, chunk.offset * 4)
            digest.update(ends[1:] - ends[:-1])
            texts.append(memoryview(text or b"")[ends[0] : ends[-1]])
    for one in texts:
        digest.update(one)
    return digest.hexdigest()


def check_binding(
    found: np.ndarray | None, start: int, stop: int, binding: Binding, *, digest: str = "", what: str
) -> np.ndarray | None:
    """Hold the rows ``[start, stop)`` of an entry to the catalogue's videos.

    Returns
    -------
    ndarray of bool, or None
        Which rows are of an earlier state of their video, None where none is.

    Parameters
    ----------
    found : ndarray or None
        The keys in the entry. None: schema 1 wrote it, its rows name no video and only have to lie inside.
    digest : str
        What the entry says that :meth:`Binding.digest` was when these keys were written; empty where it does not say.

    Raises
    ------
    WrongVideoError
        If a row is another video's, or lies beyond the catalogue.
    SnapshotChangedError
        If a row was made from a file that came after what the reader pinned.
    """
    if digest and digest == binding.digest(start, stop):
        return None
    expected = binding.keys(start, stop)
    if found is None or np.array_equal(found, expected):
        return None
    differs = (found != expected) & (expected != NOBODY)
    former = differs & binding.former(found, start, stop)
    bad = (start + np.flatnonzero(differs & ~former)).tolist()
    if not bad:
        return former if former.any() else None
    if binding.is_replaced_since(found, start, stop):
        raise SnapshotChangedError(
            f"{what}: the file of row {bad[0]} was catalogued again (`scale catalog`) since this handle was opened; "
            "open the dataset again (`ds.refresh()`)"
        )
    raise WrongVideoError(
        f"{what}: expected the results of the videos that the catalogue has in its rows, found those of other videos "
        f"in row(s) {', '.join(map(str, bad[:5]))}{' ...' if len(bad) > 5 else ''}; nothing was returned. A catalogue "
        "file or a ledger entry is not the one that was written here: see `scale verify`"
    )
