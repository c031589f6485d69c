"""UCF101: train and test lists of paths, and the gNN in a name, which is the film it was cut from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from extract.catalog.annotations import Annotation
from extract.catalog.datasets.rows import Record, annotation_files, files_like, list_rows, rows_of, videos_folder
from extract.catalog.find_videos import ListedVideo
from extract.catalog.manifest import read_lines
from pipeline.errors import ManifestError
from pipeline.recipe.datasets.ucf101 import Ucf101Dataset
from pipeline.settings import Settings

_LIST = re.compile(r"(train|test)list0*(\d+)\.txt\Z", re.IGNORECASE)
_GROUP = re.compile(r"_(g\d+)_c\d+\Z")


@list_rows.register
def list_ucf101(dataset: Ucf101Dataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of all lists."""
    files = annotation_files(dataset, settings)
    classes = {}
    for file in (f for f in files if f.name.lower() == "classind.txt"):
        classes = dict(line.split(maxsplit=1) for line in read_lines(file))
    lists = files_like(files, "lists", "trainlist", "testlist", suffix=".txt")
    folder = videos_folder(dataset.videos, settings)
    records = (record for file in lists for record in _records(file, folder, classes))
    return rows_of(records, settings, absent=dataset.absent, what=f"the lists of {dataset.name}")


def _records(file: Path, folder: Path, classes: dict[str, str]) -> Iterator[Record]:
    match = _LIST.match(file.name)
    if match is None:
        return
    side, split = match[1].lower(), match[2]
    for number, line in enumerate(read_lines(file), start=1):
        name, _, index = line.partition(" ")
        path = folder / name
        label = path.parent.name
        if index.strip() and classes and classes.get(index.strip()) != label:
            found = classes.get(index.strip(), f"no class {index}")
            raise ManifestError(
                f"{file}, line {number}: expected the class of {name} as in classInd.txt, found {found}"
            )
        group = _GROUP.search(path.stem)
        yield Record(path, (label,), {split: side}, f"{label}/{group[1]}" if group else None)
