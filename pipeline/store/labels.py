"""Labels, splits and groups that change after a video was catalogued: a side file of them, no feature touched."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import InvalidInputError
from pipeline.storage.schema import CATALOGUE_SCHEMA
from pipeline.store.side_files import KEY_FIELDS, SideFiles

if TYPE_CHECKING:
    from pipeline.storage.backend import StorageBackend

LABELS = "labels"
LABEL_COLUMNS = ("label", "labels", "splits", "group")
LABELS_SCHEMA = pa.schema(
    [
        *KEY_FIELDS,
        *(CATALOGUE_SCHEMA.field(name) for name in LABEL_COLUMNS),
        pa.field("changed_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("by", pa.string(), nullable=False),
    ]
)
"""``labels-<n>.parquet``: all four columns of every row that it names. `by`: recipe, or hand (`scale label`)."""
RECIPE, HAND = "recipe", "hand"
"""Who says so. What was said by hand is not taken back by the next run of a recipe."""


@dataclass(frozen=True, slots=True)
class ChangedLabels:
    """What a change of labels did."""

    num_changed: int
    """Rows that have another label, split or group now."""
    num_same: int
    """Rows named that had it already."""
    example: str = ""
    """The first change, in words."""


def open_labels(backend: StorageBackend, dataset: str, count: int | None = None) -> SideFiles:
    """Return the label files of a dataset; `count` of them, or all that there are."""
    return SideFiles(backend, dataset, LABELS, LABELS_SCHEMA, count)


def label_lines(
    videos: pa.Table, keys: np.ndarray, changes: Mapping[int, Mapping[str, Any]], by: str, by_hand: Collection[int] = ()
) -> tuple[pa.Table, ChangedLabels]:
    """Return the lines of a label file that turns the catalogue's present state into the wanted one.

    Parameters
    ----------
    videos : pyarrow.Table
        The catalogue as it stands, labels of earlier files included.
    keys : ndarray of uint64
        Keys of its videos, by row.
    changes : mapping of row to mapping
        Some of label, labels, splits, group; what is not named stays.
    by : {"recipe", "hand"}
    by_hand : collection of int
        Rows whose labels were given by hand: by "recipe" they are given back, though nothing else differs.
    """
    if unknown := {name for change in changes.values() for name in change} - set(LABEL_COLUMNS):
        raise InvalidInputError(f"expected {', '.join(LABEL_COLUMNS)}, found {', '.join(sorted(unknown))}")
    rows = sorted(changes)
    held = videos.select(["row", "video_id", *LABEL_COLUMNS]).take(pa.array(rows, pa.int64())).to_pylist()
    now = datetime.now(UTC)
    lines: list[dict[str, Any]] = []
    example = ""
    for row, line in zip(rows, held, strict=True):
        wanted = {name: line[name] for name in LABEL_COLUMNS} | dict(changes[row])
        difference = label_difference(line, wanted)
        if not difference and not (row in by_hand and by == RECIPE):
            continue
        example = example or f"{line['video_id']}: {difference}"
        splits = wanted["splits"]
        wanted["splits"] = sorted(splits.items()) if isinstance(splits, Mapping) else splits
        lines.append({"row": row, "video_key": int(keys[row]), "changed_at": now, "by": by, **wanted})
    table = pa.Table.from_pylist(lines, LABELS_SCHEMA)
    return table, ChangedLabels(len(lines), len(rows) - len(lines), example)


def label_difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return in words the first of label, labels, splits and group that differs; empty where none does."""
    for name in LABEL_COLUMNS:
        before, after = _plain(name, held[name]), _plain(name, wanted[name])
        if before != after:
            return f"{name} {_short(before)} -> {_short(after)}"
    return ""


def _plain(name: str, value: Any) -> Any:
    if name == "splits":
        return dict(value or ())
    if name == "labels":
        return list(value or ())
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def as_labels(label: str | None, separator: str | None = None) -> dict[str, Any]:
    """Return the columns `label` and `labels` for a text, cut at the separator where there is one."""
    parts: Sequence[str] = () if label is None else (label.split(separator) if separator else [label])
    labels = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    return {"label": labels[0] if len(labels) == 1 else None, "labels": labels}
