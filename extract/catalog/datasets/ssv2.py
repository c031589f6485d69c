"""Something-Something v2: JSON of ids and templates; the labels of its test side were never given out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
from extract.catalog.manifest import read_json
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.ssv2 import SomethingDataset
from pipeline.settings import Settings

_SIDES = {"train": "train", "validation": "val", "test": "test"}


@list_rows.register
def list_ssv2(dataset: SomethingDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of the files for the three sides; the file of labels only says which templates there are."""
    files = files_like(annotation_files(dataset, settings), "JSON files", "", suffix=".json")
    sides = {f: side for f in files for name, side in _SIDES.items() if f.stem.lower().split("-")[-1] == name}
    if not sides:
        found = ", ".join(f.name for f in files)
        raise ManifestError(f"expected train.json and validation.json among the annotations, found {found}")
    known = next((set(read_json(f, dict)) for f in files if f.stem.lower().endswith("labels")), set())
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    records = (record for f, side in sides.items() for record in _records(f, side, known, folder, there))
    return rows_of(records, settings, absent=dataset.absent, what=f"the annotations of {dataset.name}")


def _records(file: Path, side: str, known: set[str], folder: Path, there: dict[str, Path]) -> Iterator[Record]:
    for entry in read_json(file, list):
        if not isinstance(entry, dict) or "id" not in entry:
            raise ManifestError(f"{file}: expected objects with an id, found {str(entry)[:80]}")
        key, label = str(entry["id"]), _template(entry)
        if label and known and label not in known:
            raise ManifestError(f"{file}: expected a template of labels.json for {key}, found {label!r}")
        yield Record(there.get(key, folder / f"{key}.webm"), (label,) if label else (), {"1": side})


def _template(entry: dict[str, Any]) -> str:
    return str(entry.get("template") or "").replace("[", "").replace("]", "")
