"""HMDB51 and J-HMDB: a file of each class and split that says 0, 1 or 2 for every clip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from extract.catalog.annotations import Annotation
from extract.catalog.datasets.rows import Record, annotation_files, list_rows, rows_of, videos_folder
from extract.catalog.find_videos import ListedVideo
from extract.catalog.manifest import read_lines
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.hmdb51 import Hmdb51Dataset
from pipeline.settings import Settings

_LIST = re.compile(r"(.+)_test_split(\d+)\.txt\Z")
_SIDES = {"0": None, "1": "train", "2": "test"}


@list_rows.register
def list_hmdb51(dataset: Hmdb51Dataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of all split files."""
    files = [f for f in annotation_files(dataset, settings) if _LIST.match(f.name)]
    if not files:
        raise ManifestError(f"expected files <class>_test_split<n>.txt at {dataset.annotations}, found none")
    folder = videos_folder(dataset.videos, settings)
    records = (record for file in files for record in _records(file, folder))
    return rows_of(records, settings, absent=dataset.absent, what=f"the split files of {dataset.name}")


def _records(file: Path, folder: Path) -> Iterator[Record]:
    match = _LIST.match(file.name)
    assert match is not None
    label, split = match.groups()
    for number, line in enumerate(read_lines(file), start=1):
        name, _, mark = line.rpartition(" ")
        if mark not in _SIDES or not name.strip():
            raise ManifestError(f"{file}, line {number}: expected a file name and 0, 1 or 2, found {line!r}")
        side = _SIDES[mark]
        film, found, _ = name.partition(f"_{label}_")
        splits = {} if side is None else {split: side}
        yield Record(folder / label / name.strip(), (label,), splits, film if found else None)
