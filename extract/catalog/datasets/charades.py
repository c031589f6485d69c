"""Charades: a table of videos, each with several actions and when they happen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from extract.catalog.annotations import Annotation
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
from extract.catalog.manifest import read_lines, read_manifest
from extract.catalog.parts import read_seconds
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.charades import CharadesDataset
from pipeline.settings import Settings


@list_rows.register
def list_charades(dataset: CharadesDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of both tables; the published test side is what others call validation."""
    files = annotation_files(dataset, settings)
    classes: dict[str, str] = {}
    for file in (f for f in files if f.name.lower().endswith("classes.txt")):
        classes = dict(line.split(maxsplit=1) for line in read_lines(file))
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    records = []
    for table in files_like(files, "tables", "charades", suffix=".csv"):
        side = next((side for side in ("train", "test") if table.stem.lower().endswith(side)), None)
        if side is not None:
            records += list(_records(table, side, classes, folder, there, by_action=dataset.rows == "actions"))
    return rows_of(records, settings, absent=dataset.absent, what=f"the tables of {dataset.name}")


def _records(
    table: Path, side: str, classes: Mapping[str, str], folder: Path, there: Mapping[str, Path], *, by_action: bool
) -> Iterator[Record]:
    for number, row in enumerate(read_manifest(table), start=2):
        where, key = f"{table}, line {number}", str(row.get("id") or "")
        if not key:
            raise ManifestError(f"{where}: expected an id, found none")
        path, person = there.get(key, folder / f"{key}.mp4"), row.get("subject")
        group = None if person is None else str(person)
        actions = [action.split() for action in str(row.get("actions") or "").split(";") if action.strip()]
        if bad := next((action for action in actions if len(action) != 3), None):
            raise ManifestError(f"{where}: expected actions as `class start end`, found {' '.join(bad)!r}")
        if not by_action:
            labels = tuple(dict.fromkeys(classes.get(name, name) for name, _, _ in actions))
            yield Record(path, labels, {"1": side}, group)
            continue
        for name, start, end in actions:
            start_s, end_s = read_seconds(start, where), read_seconds(end, where)
            if start_s is not None and end_s is not None and end_s > start_s:
                yield Record(path, (classes.get(name, name),), {"1": side}, group, start_s, end_s)
