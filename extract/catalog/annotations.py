"""Labels, splits and groups of videos, from wherever the recipe says they come."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from extract.catalog.listed_video import ListedVideo
from extract.catalog.manifest import Row, read_manifest
from extract.catalog.matching import ByName, how_many
from extract.catalog.parts import file_id
from extract.places.elsewhere import is_address
from pipeline.errors import ManifestError
from pipeline.recipe.dataset import (
    ColumnSplits,
    ColumnValues,
    CsvSplits,
    CsvValues,
    DatasetSpec,
    FolderSplits,
    FolderValues,
    LabelSource,
    RandomSplits,
    RegexValues,
)
from pipeline.settings import Settings

_SIDES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_NO_SIDE = {"", "-", "none", "unused"}
"""How split files mark a video that a split leaves out."""


@dataclass(frozen=True)
class Annotation:
    """What the catalogue says about a video beside its file."""

    label: str | None
    labels: tuple[str, ...]
    splits: Mapping[str, str]
    group: str


def side_of(word: str) -> str | None:
    """Return train, val or test for a word that means one of them; None for others."""
    return _SIDES.get(word.strip().lower())


class Annotations(list[Annotation]):
    """Annotations of a list of videos, with what there is to say about how they were found."""

    notes: tuple[str, ...] = ()
    """Rows of lists that match no video: how many, and one of them."""


def annotate(videos: Sequence[ListedVideo], dataset: DatasetSpec, settings: Settings) -> Annotations:
    """Give every video its label(s), splits and group.

    Parameters
    ----------
    videos : sequence of ListedVideo
    dataset : DatasetSpec
    settings : Settings
        For finding the files that the recipe names.

    Returns
    -------
    Annotations
        In the order of `videos`. A video without a group is a group of its own.

    Raises
    ------
    ManifestError
        If a file or column is not there, matches no video, or holds something else than train, val, test.
    """
    notes: list[str] = []
    label_of = _values(dataset.labels, videos, settings, notes, what="labels")
    group_of = _values(dataset.group, videos, settings, notes, what="groups")
    annotations = Annotations()
    splits_of = _splits(dataset, videos, settings, notes)
    for video in videos:
        labels = _as_labels(label_of(video), dataset.label_separator)
        group = _as_labels(group_of(video), None)
        own_group = group[0] if group else file_id(video.video_id)
        label = labels[0] if len(labels) == 1 else None
        annotations.append(Annotation(label, labels, splits_of(video, own_group), own_group))
    annotations.notes = tuple(notes)
    return annotations


def _as_labels(value: object, separator: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    parts = value if isinstance(value, list) else str(value).split(separator) if separator else [str(value)]
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _values(
    source: LabelSource, videos: Sequence[ListedVideo], settings: Settings, notes: list[str], *, what: str
) -> Callable[[ListedVideo], object]:
    if isinstance(source, FolderValues):
        return lambda video: PurePosixPath(video.video_id).parent.name or None
    if isinstance(source, RegexValues):
        pattern = _compile(source.pattern, what)
        return lambda video: found[1] if (found := pattern.search(video.video_id)) else None
    if isinstance(source, ColumnValues):
        column = source.column
        _need_column(videos[0].columns if videos else {}, column, f"{what} from column {column!r} of the manifest")
        return lambda video: video.columns.get(column)
    if isinstance(source, CsvValues):
        rows = _rows_by_id(source.path, videos, settings, notes, what=what)
        _need_column(rows.first(), source.column, f"{what} in {source.path}")
        return lambda video: (rows.get(video.video_id) or {}).get(source.column)
    return lambda video: None


def _compile(pattern: str, what: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"{what}: expected a regular expression, found {pattern!r} ({error})") from None
    if not compiled.groups:
        raise ManifestError(f"{what}: expected a regular expression with one group `(...)`, found {pattern!r}")
    return compiled


def _splits(
    dataset: DatasetSpec, videos: Sequence[ListedVideo], settings: Settings, notes: list[str]
) -> Callable[[ListedVideo, str], dict[str, str]]:
    source = dataset.splits
    if isinstance(source, FolderSplits):
        return lambda video, group: _folder_side(video.video_id)
    if isinstance(source, RandomSplits):
        seed, fraction = source.seed, source.test_fraction
        return lambda video, group: {"1": _random_side(seed, group, fraction)}
    if isinstance(source, CsvSplits):
        rows = _rows_by_id(source.path, videos, settings, notes, what="splits")
        columns = split_columns(source.columns, rows.first(), f"splits in {source.path}")
        return lambda video, group: sides_of(rows.get(video.video_id) or {}, columns, source.path, source.values)
    if isinstance(source, ColumnSplits):
        first = videos[0].columns if videos else {}
        columns = split_columns(source.columns, first, "splits from columns of the manifest")
        return lambda video, group: sides_of(video.columns, columns, str(dataset.videos), source.values)
    return lambda video, group: {}


def _folder_side(video_id: str) -> dict[str, str]:
    for part in PurePosixPath(video_id).parts[:-1]:
        if part.lower() in _SIDES:
            return {"1": _SIDES[part.lower()]}
    return {}


def _random_side(seed: int, group: str, test_fraction: float) -> str:
    digest = hashlib.sha256(f"{seed}\0{group}".encode(errors="surrogatepass")).digest()
    return "test" if int.from_bytes(digest[:8], "big") / 2**64 < test_fraction else "train"


def split_columns(given: Mapping[str, str] | None, row: Mapping[str, object], what: str) -> dict[str, str]:
    """Return split name -> column; without `given` every column whose name begins with `split`.

    Raises
    ------
    ManifestError
        If there is no such column.
    """
    if given is None:
        given = {n.removeprefix("split").lstrip("_-") or "1": n for n in row if n.startswith("split")}
        if not given:
            raise ManifestError(f"{what}: expected columns named split, split1, split2 ..., found {', '.join(row)}")
    for column in given.values():
        _need_column(row, column, what)
    return dict(given)


def sides_of(
    row: Mapping[str, object], columns: Mapping[str, str], where: str, values: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return split name -> train, val or test of a row; a split that leaves the video out is not named.

    Raises
    ------
    ManifestError
        If a column holds something else.
    """
    sides = {}
    for name, column in columns.items():
        value = row.get(column)
        value = (values or {}).get(str(value).strip(), value) if value is not None else None
        if value is None or str(value).strip().lower() in _NO_SIDE:
            continue
        side = _SIDES.get(str(value).strip().lower())
        if side is None:
            raise ManifestError(
                f"{where}: expected train, val, test or nothing in column {column}, found {value!r}; "
                "say under `values` what it means" + (f" for {row['path']}" if "path" in row else "")
            )
        sides[name] = side
    return sides


def _need_column(row: Mapping[str, object], column: str, what: str) -> None:
    if column not in row:
        found = ", ".join(row) or "no manifest (videos are given by a glob)"
        raise ManifestError(f"{what}: expected a column {column!r}, found {found}")


def _rows_by_id(
    name: str, videos: Sequence[ListedVideo], settings: Settings, notes: list[str], *, what: str
) -> ByName[Row]:
    """Read a table of further columns; its key column is `path` or `video_id`."""
    file = settings.resolve_input(name, what=what)
    rows = rows_by_name(file)
    unmatched = rows.unmatched(video.video_id for video in videos)
    if videos and len(unmatched) == len(rows):
        raise ManifestError(
            f"{file}: expected paths relative to the data folder, such as {videos[0].video_id!r}, "
            f"found {unmatched[0]!r}; none of its {len(rows)} rows belongs to a video"
        )
    if videos and unmatched:
        notes.append(how_many(len(unmatched), f"of {len(rows)} rows of {what} in {name} match no video", unmatched[0]))
    return rows


def rows_by_name(file: Path) -> ByName[Row]:
    """Read a table whose key column is `path` or `video_id`.

    Raises
    ------
    ManifestError
        If there is no such column, or a video stands in two rows that differ.
    """
    rows = read_manifest(file)
    key = next((k for k in ("video_id", "path") if rows and k in rows[0]), None)
    if key is None:
        raise ManifestError(
            f"{file}: expected rows with a column `path` or `video_id`, found "
            + (f"columns {', '.join(rows[0])}" if rows else "no rows")
        )
    by_id: dict[str, Row] = {}
    for row in rows:
        given = str(row[key] or "")
        video_id = given if is_address(given) else PurePosixPath(given).as_posix()
        if video_id in by_id and by_id[video_id] != row:
            raise ManifestError(f"{file}: expected each {key} once, found {video_id!r} with different values")
        by_id[video_id] = row
    return ByName(by_id)
