"""Which row of a list belongs to which video: by path, however its letters are composed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


def composed(name: str) -> str:
    """Return a name with every letter composed (NFC): a Mac writes `ö` as two characters, most lists as one."""
    return unicodedata.normalize("NFC", name)


class ByName(Generic[T]):
    """Rows of a list by the name they give; found by the very name, or by one that differs only in composition.

    Parameters
    ----------
    rows : mapping of str to T
    """

    def __init__(self, rows: Mapping[str, T]) -> None:
        self._rows = rows
        by_composed: dict[str, list[str]] = {}
        for name in rows:
            by_composed.setdefault(composed(name), []).append(name)
        # Two names that differ in composition alone are two files: only their own names find them.
        self._by_composed = {key: names[0] for key, names in by_composed.items() if len(names) == 1}

    def name_of(self, video_id: str) -> str | None:
        """Return the name in the list that means this video; None where there is none."""
        return video_id if video_id in self._rows else self._by_composed.get(composed(video_id))

    def get(self, video_id: str) -> T | None:
        """Return the row of a video; None where there is none."""
        name = self.name_of(video_id)
        return None if name is None else self._rows[name]

    def first(self) -> T:
        """Return any row."""
        return next(iter(self._rows.values()))

    def unmatched(self, video_ids: Iterable[str]) -> list[str]:
        """Return the names in the list that mean none of these videos, in the list's order."""
        found = {self.name_of(video_id) for video_id in video_ids}
        return [name for name in self._rows if name not in found]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def how_many(count: int, what: str, example: str) -> str:
    """Return ``3 videos without a label, such as 'a.mp4'``."""
    return f"{count} {what}, such as {example!r}" if count > 1 else f"{count} {what}: {example!r}"
