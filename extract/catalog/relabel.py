"""A list of labels, splits or groups for videos that are catalogued already, as changes of rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from extract.catalog.annotations import rows_by_name, sides_of, split_columns
from extract.catalog.matching import how_many
from pipeline.errors import ManifestError
from pipeline.store.labels import as_labels


@dataclass(frozen=True)
class LabelList:
    """What a list says about a dataset's videos."""

    changes: Mapping[int, Mapping[str, Any]]
    """Row -> some of label, labels, splits, group."""
    notes: tuple[str, ...]
    """Lines of the list that match no video, videos that it does not name: how many, and one of them."""


def read_label_list(
    file: Path,
    videos: pa.Table,
    *,
    label: str | None = None,
    group: str | None = None,
    splits: Mapping[str, str] | None = None,
    separator: str | None = None,
) -> LabelList:
    """Read a CSV, TSV or Parquet file with a column `path` or `video_id`.

    Parameters
    ----------
    file : Path
    videos : pyarrow.Table
        The catalogue as it stands: `row`, `video_id`, `splits`.
    label, group : str, optional
        Columns; `label` and `group` where the file has them.
    splits : mapping of split name to column, optional
        Every column whose name begins with `split` where None. A split that the file does not name stays.
    separator : str, optional
        Cuts a text into several labels.

    Raises
    ------
    ManifestError
        If a column is not there, or no line belongs to a video.
    """
    listed = rows_by_name(file)
    columns = listed.first()
    label_column = _column(columns, label, "label", file)
    group_column = _column(columns, group, "group", file)
    if splits is None and not any(name.startswith("split") for name in columns):
        splits = {}
    sides = split_columns(splits, columns, str(file)) if splits is None or splits else {}
    if not (label_column or group_column or sides):
        raise ManifestError(
            f"{file}: expected a column label, group or split beside the path, found {', '.join(columns)}; "
            "name yours with --label-column, --group-column, --split NAME=COLUMN"
        )
    changes: dict[int, dict[str, Any]] = {}
    unnamed: list[str] = []
    for video in videos.select(["row", "video_id", "splits"]).to_pylist():
        line = listed.get(video["video_id"])
        if line is None:
            unnamed.append(video["video_id"])
            continue
        change: dict[str, Any] = {}
        if label_column:
            change |= as_labels(_text(line[label_column]), separator)
        if group_column:
            change["group"] = _text(line[group_column])
        if sides:
            kept = {name: side for name, side in dict(video["splits"] or ()).items() if name not in sides}
            change["splits"] = kept | sides_of(line, sides, str(file))
        changes[video["row"]] = change
    unmatched = listed.unmatched(videos["video_id"].to_pylist())
    if not changes:
        raise ManifestError(
            f"{file}: expected ids of the catalogue's videos, such as {unnamed[0]!r}, found {unmatched[0]!r}; none of "
            f"its {len(listed)} lines belongs to a video"
            if unnamed
            else f"{file}: expected videos in the catalogue, found none"
        )
    notes = []
    if unmatched:
        notes.append(how_many(len(unmatched), f"of {len(listed)} lines match no video", unmatched[0]))
    if unnamed:
        notes.append(how_many(len(unnamed), f"of {videos.num_rows} videos are not named and stay", unnamed[0]))
    return LabelList(changes, tuple(notes))


def _column(columns: Mapping[str, object], given: str | None, usual: str, file: Path) -> str | None:
    if given is None:
        return usual if usual in columns else None
    if given not in columns:
        raise ManifestError(f"{file}: expected a column {given!r}, found {', '.join(columns)}")
    return given


def _text(value: object) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()
