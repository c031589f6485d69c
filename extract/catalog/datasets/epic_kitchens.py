"""EPIC-KITCHENS-100: narrated actions in long videos."""

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
from extract.catalog.manifest import read_manifest
from extract.catalog.parts import read_seconds
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.epic_kitchens import EpicKitchensDataset
from pipeline.settings import Settings

_NEEDED = ("video_id", "start_timestamp", "stop_timestamp")


@list_rows.register
def list_epic_kitchens(
    dataset: EpicKitchensDataset, settings: Settings
) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return one row an action; actions of one video share a group."""
    files = annotation_files(dataset, settings)
    classes = {
        f.stem.lower(): f for f in files if f.name.lower().startswith("epic_100") and "classes" in f.name.lower()
    }
    names = {kind: _names(classes.get(f"epic_100_{kind}_classes")) for kind in ("verb", "noun")}
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    tables = [f for f in files_like(files, "tables", "epic_100", suffix=".csv") if "classes" not in f.name.lower()]
    records = (
        record
        for table in tables
        if (side := next((s for word in table.stem.split("_") if (s := side_of(word))), None))
        for record in _records(table, side, dataset.label, names, folder, there)
    )
    return rows_of(records, settings, absent=dataset.absent, what=f"the tables of {dataset.name}")


def _names(table: Path | None) -> dict[str, str]:
    """Return class number -> name, where the table of classes lies beside."""
    return {} if table is None else {str(row.get("id")): str(row.get("key")) for row in read_manifest(table)}


def _records(
    table: Path,
    side: str,
    label: str,
    names: Mapping[str, Mapping[str, str]],
    folder: Path,
    there: Mapping[str, Path],
) -> Iterator[Record]:
    kinds = ("verb", "noun") if label == "action" else (label,)
    for number, row in enumerate(read_manifest(table), start=2):
        where = f"{table}, line {number}"
        if missing := [name for name in _NEEDED if not row.get(name)]:
            raise ManifestError(f"{where}: expected {', '.join(_NEEDED)}, found no {missing[0]}")
        key, person = str(row["video_id"]), str(row.get("participant_id") or str(row["video_id"]).split("_")[0])
        parts = [_class(row.get(f"{kind}_class"), row.get(kind), names[kind]) for kind in kinds]
        labels = (" ".join(parts),) if all(parts) else ()
        path = there.get(key, folder / person / "videos" / f"{key}.MP4")
        start_s = read_seconds(row["start_timestamp"], where) or 0.0
        yield Record(path, labels, {"1": side}, key, start_s, read_seconds(row["stop_timestamp"], where))


def _class(number: object, word: object, names: Mapping[str, str]) -> str:
    """Return the name of a class: of the narrator's words many belong to one, so that they serve only without it."""
    if number is None:
        return str(word or "")
    return names.get(str(number), str(number))
