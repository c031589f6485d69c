"""Videos by globs or a manifest, with labels, splits and groups from wherever the recipe says."""

from __future__ import annotations

import re
from collections.abc import Mapping

from extract.catalog.annotations import Annotation, annotate
from extract.catalog.datasets.rows import list_rows
from extract.catalog.find_videos import list_videos
from extract.catalog.listed_video import ListedVideo
from pipeline.recipe.dataset import ColumnSplits, ColumnValues, DatasetSpec
from pipeline.settings import Settings

_LABEL = re.compile(r"labels?(_\w+)?|class(_\w+)?|category|action|group", re.IGNORECASE)


@list_rows.register
def list_files(dataset: DatasetSpec, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of globs or a manifest."""
    passed_over: list[str] = []
    listed = list_videos(dataset, settings, passed_over)
    annotations = annotate(listed, dataset, settings)
    annotations.notes = (*passed_over, *_unread(dataset, listed[0].columns if listed else {}), *annotations.notes)
    return listed, annotations


def _unread(dataset: DatasetSpec, columns: Mapping[str, object]) -> list[str]:
    """Name columns of a manifest that speak of labels or splits and are not read: a warning, for lists serve many."""
    read = {source.column for source in (dataset.labels, dataset.group) if isinstance(source, ColumnValues)}
    if isinstance(dataset.splits, ColumnSplits):
        read |= set(dataset.splits.columns.values()) if dataset.splits.columns else {c for c in columns if _is_split(c)}
    unread = [c for c in columns if c not in read and c not in dataset.ignore and (_is_split(c) or _LABEL.fullmatch(c))]
    if not unread:
        return []
    return [
        f"columns {', '.join(unread)} of {dataset.videos} are not read: say `labels: {{from: column, column: ...}}` or "
        "`splits: {from: columns}`, or list them under `ignore`"
    ]


def _is_split(column: str) -> bool:
    return column.lower().startswith("split")
