"""FineGym: elements within events within whole broadcasts, named by where they lie."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
from extract.catalog.manifest import read_json, read_lines
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.finegym import FineGymDataset
from pipeline.settings import Settings

_ELEMENT = re.compile(r"(.{11})_(E_\d+_\d+)_(A_\d+_\d+)\Z")
_CLASS = re.compile(r"Clabel:\s*(\d+).*?;\s*[A-Za-z_]*[Ss]et:\s*\d+;\s*[A-Za-z]*\s*(.+)\Z")


@list_rows.register
def list_finegym(dataset: FineGymDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return one row an element: a cut file where it lies there, else a part of the broadcast."""
    files = annotation_files(dataset, settings)
    lists = files_like(files, "lists of elements", f"{dataset.classes}_", suffix=".txt")
    times = next((read_json(f, dict) for f in files if f.suffix.lower() == ".json"), {})
    names: dict[str, str] = {}
    for file in (f for f in files if "categories" in f.name.lower() and dataset.classes in f.name.lower()):
        names = {m[1]: m[2].strip() for line in read_lines(file) if (m := _CLASS.match(line))}
    folder = videos_folder(dataset.videos, settings)
    there = videos_by_stem(folder)
    records = (record for file in lists for record in _records(file, names, times, folder, there))
    return rows_of(records, settings, absent=dataset.absent, what=f"the lists of {dataset.name}")


def _records(
    file: Path, names: Mapping[str, str], times: Mapping[str, Any], folder: Path, there: Mapping[str, Path]
) -> Iterator[Record]:
    side = next((s for word in file.stem.split("_") if (s := side_of(word))), None)
    if side is None:
        return
    for number, line in enumerate(read_lines(file), start=1):
        element, _, index = line.partition(" ")
        found = _ELEMENT.match(element)
        if found is None or not index.strip():
            raise ManifestError(f"{file}, line {number}: expected <video>_E_..._A_... and a class, found {line!r}")
        key, event, action = found.groups()
        labels = (names.get(index.strip(), index.strip()),)
        if element in there or key not in there:
            yield Record(there.get(element, folder / f"{element}.mp4"), labels, {"1": side}, key)
            continue
        start_s, end_s = _times(times, key, event, action, f"{file}, line {number}")
        yield Record(there[key], labels, {"1": side}, key, start_s, end_s)


def _times(times: Mapping[str, Any], key: str, event: str, action: str, where: str) -> tuple[float, float]:
    """Return when an element is shown in its broadcast; times of elements count from their event's start."""
    try:
        about = times[key][event]
        begin = float(about["timestamps"][0][0])
        spans = about["segments"][action]["timestamps"]
        return begin + float(spans[0][0]), begin + float(spans[-1][1])
    except (KeyError, IndexError, TypeError, ValueError):
        raise ManifestError(
            f"{where}: expected the annotation JSON to tell the times of {key}_{event}_{action}, found nothing; its "
            "video is there whole, so they are needed"
        ) from None
