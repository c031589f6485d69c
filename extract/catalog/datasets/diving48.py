"""Diving48: JSON of clip names and class numbers, and a vocabulary of what a dive consists of."""

from __future__ import annotations

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
from pipeline.recipe.datasets.diving48 import Diving48Dataset
from pipeline.settings import Settings


@list_rows.register
def list_diving48(dataset: Diving48Dataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of both sides."""
    files = files_like(annotation_files(dataset, settings), "JSON files", "diving48", suffix=".json")
    vocabulary = next((read_json(f, list) for f in files if "vocab" in f.name.lower()), [])
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    records = []
    for file in files:
        side = next((side for side in ("train", "test") if file.stem.lower().endswith(side)), None)
        for entry in read_json(file, list) if side else ():
            if not isinstance(entry, dict) or not {"vid_name", "label"} <= entry.keys():
                raise ManifestError(f"{file}: expected objects with vid_name and label, found {str(entry)[:80]}")
            name, number = str(entry["vid_name"]), int(entry["label"])
            if vocabulary and not 0 <= number < len(vocabulary):
                raise ManifestError(f"{file}: expected a class below {len(vocabulary)}, found {number} for {name}")
            label = "/".join(map(str, vocabulary[number])) if vocabulary else str(number)
            records.append(Record(there.get(name, folder / f"{name}.mp4"), (label,), {"1": str(side)}))
    return rows_of(records, settings, absent=dataset.absent, what=f"the annotations of {dataset.name}")
