"""Kinetics: tables of clips cut from videos of the web, and the names that common downloaders give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from extract.catalog.annotations import Annotation, side_of
from extract.catalog.datasets.rows import (
    Record,
    annotation_files,
    files_like,
    list_rows,
    rows_of,
    videos_by_stem,
    videos_folder,
)
from extract.catalog.find_videos import ListedVideo
from extract.catalog.manifest import Row, read_manifest
from extract.catalog.parts import read_seconds
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.kinetics import KineticsDataset
from pipeline.settings import Settings

_NEEDED = ("youtube_id", "time_start", "time_end")


@list_rows.register
def list_kinetics(dataset: KineticsDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of all tables."""
    tables = files_like(annotation_files(dataset, settings), "tables", "", suffix=".csv")
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    records = (record for table in tables for record in _records(table, folder, there, dataset.whole_videos))
    return rows_of(records, settings, absent=dataset.absent, what=f"the tables of {dataset.name}")


def _records(table: Path, folder: Path, there: Mapping[str, Path], whole_videos: bool) -> Iterator[Record]:
    for number, row in enumerate(read_manifest(table), start=2):
        if missing := [name for name in _NEEDED if not row.get(name)]:
            raise ManifestError(f"{table}, line {number}: expected {', '.join(_NEEDED)}, found no {missing[0]}")
        key, label = str(row["youtube_id"]), str(row.get("label") or "")
        start_s = read_seconds(row["time_start"], f"{table}, line {number}") or 0.0
        end_s = read_seconds(row["time_end"], f"{table}, line {number}")
        assert end_s is not None
        side = _side(row, table)
        clip = f"{key}_{round(start_s):06d}_{round(end_s):06d}"
        names = (clip, f"{key}_{start_s:g}_{end_s:g}", f"{key}_{round(start_s)}_{round(end_s)}")
        path = next((there[name] for name in names if name in there), None)
        splits, labels = {"1": side} if side else {}, (label,) if label else ()
        if path is not None or (key in there and not whole_videos):
            yield Record(path or there[key], labels, splits, key)
        elif whole_videos:
            yield Record(there.get(key, folder / f"{key}.mp4"), labels, splits, key, start_s, end_s)
        else:
            yield Record(folder / label / f"{clip}.mp4", labels, splits, key)


def _side(row: Row, table: Path) -> str | None:
    """Return the side from the column `split`, or from the table's name."""
    words = [str(row["split"])] if row.get("split") else table.stem.lower().replace("-", "_").split("_")
    return next((side for word in words if (side := side_of(word))), None)
