"""What every kind of data set gives: records of paths, labels, splits and groups, and from them rows to catalogue."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from pathlib import Path

from extract.catalog.annotations import Annotation
from extract.catalog.listed_video import ListedVideo, path_id
from extract.catalog.parts import part_id
from extract.decoding.image_sequence import names_images
from extract.places.elsewhere import VIDEO_SUFFIXES, Elsewhere, place_of_path
from pipeline.errors import InvalidInputError, ManifestError, NoDataError
from pipeline.recipe.dataset import DatasetBase
from pipeline.recipe.datasets import PublishedDataset
from pipeline.settings import Settings


@dataclass(frozen=True)
class Record:
    """One annotated video, or part of one."""

    path: Path
    labels: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    group: str | None = None
    """Videos cut from one source; None: the file."""
    start_s: float | None = None
    end_s: float | None = None


@singledispatch
def list_rows(dataset: DatasetBase, settings: Settings) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Return the rows that the section of a recipe means, ordered by id, and what is said about each.

    Parameters
    ----------
    dataset : DatasetBase
    settings : Settings
        `data` is the folder that the recipe's paths are relative to.

    Raises
    ------
    NoDataError
        If there is no video.
    ManifestError
        If an annotation file is not what it should be.
    """
    raise InvalidInputError(f"expected a data set of a known kind, found {type(dataset).__name__}")


def image_fps_of(dataset: DatasetBase) -> float:
    """Return the frame rate of a data set's folders of images."""
    for name in ("image_fps", "fps"):
        if (fps := getattr(dataset, name, None)) is not None:
            return float(fps)
    return 30.0


def rows_of(
    records: Iterable[Record], settings: Settings, *, absent: str, what: str
) -> tuple[tuple[ListedVideo, ...], list[Annotation]]:
    """Turn records into rows ordered by id; what several records say about one is put together.

    Parameters
    ----------
    records : iterable of Record
    settings : Settings
    absent : {"row", "skip"}
        Whether videos that are not there are rows.
    what : str
        For messages: where the records come from.

    Raises
    ------
    NoDataError
        If none of the videos is there.
    ManifestError
        If two records put a row on two sides of one split.
    """
    root = settings.data or Path.cwd()
    rows: dict[str, tuple[ListedVideo, Annotation]] = {}
    there: dict[Path, bool] = {}
    example = None
    for record in records:
        path, example = record.path, example or record.path
        if path not in there:
            place = place_of_path(path)
            there[path] = isinstance(place, Elsewhere) or path.exists() or names_images(path)
        if absent == "skip" and not there[path]:
            continue
        own = path_id(path, root)
        name = own if record.start_s is None else part_id(own, record.start_s, record.end_s)
        listed = ListedVideo(name, place_of_path(path), {}, record.start_s, record.end_s)
        note = _annotation(record, record.group or own)
        if name in rows:
            note = _together(name, rows[name][1], note, what)
        rows[name] = (listed, note)
    if not any(there.values()):
        raise NoDataError(
            f"expected the videos of {what} to be there, such as {example}, found none of {len(there)}; "
            "say under `videos` which folder holds them"
        )
    ordered = [rows[name] for name in sorted(rows)]
    return tuple(listed for listed, _ in ordered), [note for _, note in ordered]


def _annotation(record: Record, group: str) -> Annotation:
    labels = tuple(dict.fromkeys(label for label in record.labels if label))
    return Annotation(labels[0] if len(labels) == 1 else None, labels, dict(record.splits), group)


def _together(name: str, before: Annotation, now: Annotation, what: str) -> Annotation:
    for split in before.splits.keys() & now.splits.keys():
        if before.splits[split] != now.splits[split]:
            raise ManifestError(
                f"{what}: expected {name!r} on one side of split {split}, found {before.splits[split]} and "
                f"{now.splits[split]}"
            )
    labels = tuple(dict.fromkeys((*before.labels, *now.labels)))
    both = replace(before, labels=labels, splits={**before.splits, **now.splits})
    return replace(both, label=labels[0] if len(labels) == 1 else None)


def videos_folder(name: str, settings: Settings) -> Path:
    """Return the folder of the videos.

    Raises
    ------
    NoDataError
        If it is not there.
    """
    root = settings.data or Path.cwd()
    folder = root / Path(name).expanduser()
    if not folder.is_dir():
        raise NoDataError(
            f"expected the folder of videos {folder}, found none; say under `videos` where it is, or --data"
        )
    return folder


def annotation_files(dataset: PublishedDataset, settings: Settings) -> list[Path]:
    """Return the annotation files of a published data set, ordered by name.

    Raises
    ------
    NoDataError
        If a folder or file is not there.
    """
    given = [dataset.annotations] if isinstance(dataset.annotations, str) else dataset.annotations
    found: list[Path] = []
    for name in given:
        places = [f / name for f in (settings.data, settings.recipe_dir, Path.cwd()) if f is not None]
        place = next((p for p in places if p.exists()), None)
        if place is None:
            tried = ", ".join(str(p) for p in dict.fromkeys(places))
            raise NoDataError(f"expected the annotations of {dataset.name} at {name}, found nothing (tried {tried})")
        found += sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    return found


def files_like(files: Sequence[Path], what: str, *beginnings: str, suffix: str = "") -> list[Path]:
    """Return the files whose names begin in one of the given ways.

    Raises
    ------
    ManifestError
        If there is none; names what is there.
    """
    found = [f for f in files if f.name.lower().startswith(beginnings) and f.name.lower().endswith(suffix)]
    if not found:
        names = ", ".join(f.name for f in files[:6]) or "no files"
        raise ManifestError(f"expected {what} named {' or '.join(beginnings)}...{suffix}, found {names}")
    return found


def videos_by_stem(folder: Path) -> dict[str, Path]:
    """Return the videos of a folder and all below it by their names without suffix; the first in order counts."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                found.setdefault(stem, Path(place, name))
    return found
