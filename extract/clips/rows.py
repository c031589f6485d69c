"""Which videos a pretraining learns from, and which training groups it keeps apart to be looked at with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.crops.draws import Draws
from pipeline.compute.clips import LabelledRows
from pipeline.errors import NoDataError
from pipeline.recipe import PretrainSpec

if TYPE_CHECKING:
    from pipeline import Dataset

MIN_VIDEOS = 2


@dataclass(frozen=True)
class FeedRows:
    """The rows of a pretraining.

    Attributes
    ----------
    learned : ndarray
        (n,) int64, ascending.
    held_out, gallery : LabelledRows or None
        Rows with labels: held out, and learned from.
    table : mapping
        Row -> its catalogue row.
    groups : mapping
        Row -> number of its group.
    """

    learned: np.ndarray
    held_out: LabelledRows | None
    gallery: LabelledRows | None
    table: Mapping[int, Mapping[str, Any]]
    groups: Mapping[int, int]

    @property
    def looked_at(self) -> np.ndarray:
        """All rows that a probe asks for: (n,) int64, ascending."""
        parts = [some.rows for some in (self.gallery, self.held_out) if some is not None]
        return np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)

    def videos(self, rows: np.ndarray) -> list[Mapping[str, Any]]:
        """Return the catalogue rows of some rows."""
        return [self.table[row] for row in rows.tolist()]

    def groups_of(self, rows: np.ndarray) -> np.ndarray:
        """Return (n,) int64: the same number for videos of one source."""
        return np.array([self.groups[row] for row in rows.tolist()], np.int64)


def choose_feed_rows(dataset: Dataset, spec: PretrainSpec) -> FeedRows:
    """Apply the rows policy: the split's training rows, or all; readable ones; some groups held out for the probe.

    Raises
    ------
    NoDataError
        If fewer than two readable videos are left.
    """
    if spec.rows == "all":
        selection = dataset.select()
    else:
        name = spec.split.replace("'", "''")
        selection = dataset.select(f"splits['{name}'] = 'train'")
    chosen = [video for video in selection.videos.to_pylist() if video.get("probe_error") is None]
    table = {int(video["row"]): video for video in chosen}
    names = {row: video.get("group") or f"row {row}" for row, video in table.items()}
    numbers = {name: k for k, name in enumerate(dict.fromkeys(names.values()))}
    held = _held_out_groups(list(numbers), spec)
    rows = np.array(sorted(table), np.int64)
    is_held = np.array([names[row] in held for row in rows.tolist()], bool)
    learned = rows[~is_held]
    if len(learned) < MIN_VIDEOS:
        policy = "all rows" if spec.rows == "all" else f"rows that split {spec.split!r} marks as train"
        raise NoDataError(
            f"expected at least {MIN_VIDEOS} readable videos to learn from among {policy}, found {len(learned)} "
            f"({is_held.sum()} held out for the probe); name another split, set `rows: all`, or lower probe_fraction"
        )
    classes = {label: k for k, label in enumerate(sorted({v["label"] for v in table.values() if v.get("label")}))}
    held_out, gallery = (_labelled(some, table, classes) for some in (rows[is_held], learned))
    return FeedRows(learned, held_out, gallery, table, {row: numbers[name] for row, name in names.items()})


def _held_out_groups(groups: list[str], spec: PretrainSpec) -> set[str]:
    if spec.probe_epochs is None:
        return set()
    return {group for group in groups if Draws("held out", spec.seed, group).unit(1)[0] < spec.probe_fraction}


def _labelled(
    rows: np.ndarray, table: Mapping[int, Mapping[str, Any]], classes: Mapping[str, int]
) -> LabelledRows | None:
    with_label = [row for row in rows.tolist() if table[row].get("label")]
    if not with_label:
        return None
    return LabelledRows(np.array(with_label, np.int64), np.array([classes[table[r]["label"]] for r in with_label]))
