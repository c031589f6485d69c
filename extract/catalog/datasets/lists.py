"""Plain lists without a header, and folders of extracted frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from extract.catalog.annotations import Annotation
from extract.catalog.datasets.rows import Record, list_rows, rows_of, videos_folder
from extract.catalog.find_videos import ListedVideo
from extract.catalog.manifest import read_lines
from extract.catalog.parts import bounds_of
from extract.decoding.image_sequence import stems_of
from pipeline.errors import ManifestError, NoDataError
from pipeline.recipe.datasets.lists import ListDataset, RawframesDataset
from pipeline.settings import Settings

_SEPARATORS = {"space": None, "comma": ",", "tab": "\t", "semicolon": ";"}


@list_rows.register
def list_lists(dataset: ListDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows of all lists."""
    if dataset.columns[0] != "path":
        raise ManifestError(f"expected the first of `columns` to be path, found {dataset.columns[0]}")
    folder = videos_folder(dataset.videos, settings)
    classes = _classes(dataset.classes, settings)
    records = (
        record
        for file, side in _files(dataset.lists, settings)
        for record in _records(dataset, file, {dataset.split: side} if side != "none" else {}, folder, classes)
    )
    return rows_of(records, settings, absent=dataset.absent, what=f"the lists of {dataset.name}")


def _files(lists: Mapping[Any, str | list[str]], settings: Settings) -> Iterator[tuple[Path, str]]:
    for side, names in lists.items():
        for name in [names] if isinstance(names, str) else names:
            yield settings.resolve_input(name, what=f"list of the side {side}"), side


def _classes(name: str | None, settings: Settings) -> Sequence[str]:
    """Return the names of classes in their order, without the numbers that may stand before them."""
    if name is None:
        return ()
    lines = read_lines(settings.resolve_input(name, what="names of classes"))
    if all(line.split(maxsplit=1)[0].isdigit() and " " in line for line in lines):
        return [line.split(maxsplit=1)[1] for line in lines]
    return lines


def _label(text: str, classes: Sequence[str], where: str) -> str:
    if not classes:
        return text
    if not text.isdigit() or int(text) >= len(classes):
        raise ManifestError(f"{where}: expected the number of one of {len(classes)} classes, found {text!r}")
    return classes[int(text)]


def _records(
    dataset: ListDataset, file: Path, splits: dict[str, str], folder: Path, classes: Sequence[str]
) -> Iterator[Record]:
    columns, separator = dataset.columns, _SEPARATORS[dataset.separator]
    for number, line in enumerate(read_lines(file), start=1):
        where = f"{file}, line {number}"
        # the path comes first and may hold the separator; labels in several words cannot be told from it
        fields = [text.strip() for text in line.rsplit(separator, len(columns) - 1)]
        if len(fields) != len(columns) or not fields[0]:
            raise ManifestError(
                f"{where}: expected {len(columns)} columns ({', '.join(columns)}) separated by {dataset.separator}, "
                f"found {line!r}; say under `separator` and `columns` what stands there"
            )
        row: dict[str, str] = dict(zip(columns, fields, strict=True))
        labels = [row["label"]] if row.get("label") else (row.get("labels") or "").split(",")
        start_s, end_s = bounds_of(row, where)
        yield Record(
            folder / row["path"],
            tuple(_label(label, classes, where) for label in labels if label),
            splits,
            row.get("group"),
            start_s,
            end_s,
        )


@list_rows.register
def list_rawframes(dataset: RawframesDataset, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return one row a folder of frames; of these the images with the stem that the recipe names."""
    folder = videos_folder(dataset.videos, settings)
    classes = _classes(dataset.classes, settings)
    records: list[Record] = []
    if dataset.lists is None:
        for place in sorted(path for path in folder.rglob("*") if path.is_dir()):
            stems = stems_of(place)
            if stems and dataset.stem not in stems:
                raise NoDataError(
                    f"expected images named {dataset.stem}<number> in {place}, found {', '.join(sorted(stems))}; say "
                    "under `stem` which are meant"
                )
            if stems:
                records.append(Record(place / f"{dataset.stem}*", (place.parent.name,)))
    for file, side in _files(dataset.lists or {}, settings):
        for number, line in enumerate(read_lines(file), start=1):
            fields = line.rsplit(maxsplit=2)
            if len(fields) != 3 or not fields[1].isdigit():
                raise ManifestError(
                    f"{file}, line {number}: expected `folder number-of-frames label`, found {line!r}; lists of other "
                    "columns are read by `kind: list`"
                )
            label = _label(fields[2], classes, f"{file}, line {number}")
            splits = {dataset.split: side} if side != "none" else {}
            records.append(Record(folder / fields[0] / f"{dataset.stem}*", (label,), splits))
    return rows_of(records, settings, absent=dataset.absent, what=f"the frames of {dataset.name}")
