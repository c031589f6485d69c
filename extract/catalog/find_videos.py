"""Which files a recipe means: globs below the data folder, or the rows of a manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from extract.catalog.address_rows import rows_at_address
from extract.catalog.globbing import choices_of, glob, split_absolute, why_nothing
from extract.catalog.listed_video import ListedVideo, path_id
from extract.catalog.manifest import is_manifest, read_manifest
from extract.catalog.parts import END, START, bounds_of, file_id, part_id
from extract.catalog.passed_over import PassedOver, with_its_spaces
from extract.catalog.shard_rows import rows_of_shard
from extract.decoding.image_sequence import IMAGE_SUFFIXES
from extract.places.elsewhere import (
    Elsewhere,
    Place,
    is_address,
    member_of,
    names_shard,
    place_at,
    place_of_path,
    place_of_uri,
)
from extract.places.files import Files
from pipeline.errors import ManifestError, NoDataError
from pipeline.recipe.dataset import ColumnSplits, ColumnValues, DatasetSpec
from pipeline.roots import check_allowed, split_roots
from pipeline.settings import Settings


def list_videos(dataset: DatasetSpec, settings: Settings, notes: list[str] | None = None) -> tuple[ListedVideo, ...]:
    """Return the videos that a recipe names, ordered by id.

    Parameters
    ----------
    dataset : DatasetSpec
    settings : Settings
        `data` is the folder that paths are relative to; the working folder without it.
    notes : list of str, optional
        Takes what was passed over, and why.

    Raises
    ------
    NoDataError
        If nothing matches; the message says where was looked for what.
    ManifestError
        If the manifest cannot be used.
    """
    given = [dataset.videos] if isinstance(dataset.videos, str) else list(dataset.videos)
    if len(given) == 1 and is_manifest(given[0]) and not is_address(given[0]):
        return _from_manifest(given[0], dataset, settings)
    patterns = [choice for pattern in given for choice in choices_of(pattern)]
    here = [pattern for pattern in patterns if not is_address(pattern)]
    passed, files = PassedOver(), Files.of(settings)
    found: dict[str, ListedVideo] = {}
    for pattern in patterns:
        if is_address(pattern):
            rows = rows_at_address(pattern, files, passed, with_columns=reads_columns(dataset))
            found |= {video.video_id: video for video in rows}
    if here:
        found |= _below(settings.data or Path.cwd(), here, dataset, files, passed)
    if notes is not None:
        notes += passed.notes()
    if not found:
        why = "; ".join(passed.notes())
        raise NoDataError((f"{why}; " if why else "") + why_nothing(settings.data or Path.cwd(), here or patterns))
    _check_allowed(found.values(), settings)
    return tuple(found[video_id] for video_id in sorted(found))


def _below(
    root: Path, patterns: list[str], dataset: DatasetSpec, files: Files, passed: PassedOver
) -> dict[str, ListedVideo]:
    """Return what patterns match below the data folder; shards that a pattern names are their members."""
    if not os.path.isdir(root):
        raise NoDataError(f"expected the data folder {root}, found no such folder; give another with --data")
    paths: dict[Path, bool] = {}
    for pattern in patterns:
        for path in glob(*split_absolute(root, pattern), passed):
            paths[path] = paths.get(path, False) or (names_shard(pattern) and os.path.isfile(path))
    sequences = {path for path in paths if os.path.isdir(path)}
    found: dict[str, ListedVideo] = {}
    for path, is_shard in paths.items():
        if path.parent in sequences and path.suffix.lower() in IMAGE_SUFFIXES:
            continue  # a frame of an image sequence is not a video of its own
        name = path_id(path, root)
        if is_shard:
            files.check(member_of(path, ""))
            rows = rows_of_shard(path, name, files, passed, with_columns=reads_columns(dataset))
            found |= {video.video_id: video for video in rows}
        else:
            found[name] = ListedVideo(name, path)
    return found


def reads_columns(dataset: DatasetSpec) -> bool:
    """Whether labels, splits or groups are read from columns beside the videos."""
    return any(isinstance(s, ColumnValues | ColumnSplits) for s in (dataset.labels, dataset.splits, dataset.group))


def resolve_video(
    video_id: str, uri: str | None, settings: Settings, *, num_bytes: int | None = None, sha256: str | None = None
) -> Place:
    """Return where a catalogued video lies now: below the data folder if it is there, else at its recorded address.

    Parameters
    ----------
    video_id, uri : str
        As in the catalogue.
    settings : Settings
    num_bytes, sha256 : optional
        As in the catalogue: what is fetched from elsewhere must be that.
    """
    place: Place | None = None
    if settings.data is not None:
        for name in dict.fromkeys((video_id, file_id(video_id))):
            below = place_of_path(settings.data / name)
            if isinstance(below, Elsewhere) or os.path.exists(below):
                place = below
                break
    if place is None and uri:
        place = place_of_uri(uri)
        if isinstance(place, Path):
            check_allowed(place, split_roots(settings.roots), what=f"video {video_id}")
    if isinstance(place, Elsewhere):
        Files.of(settings).check(place)
        return replace(place, num_bytes=num_bytes, sha256=sha256)
    return place or (settings.data or Path.cwd()) / file_id(video_id)


_TIMES = re.compile(
    r"(start|stop|end|begin|time|frame)([_ ]?(s|sec|secs|seconds|time|timestamp|frame|ms))?"
    r"|(time|frame)_(start|end|stop)",
    re.IGNORECASE,
)
"""Columns that say which part of a file is meant: whoever gives them expects that they count."""


def _refuse_ignored(row: Mapping[str, object], dataset: DatasetSpec, file: Path) -> None:
    """Refuse columns of times that would be passed over: rows would be whole files instead of parts."""
    ignored = [name for name in row if name not in (START, END, *dataset.ignore) and _TIMES.fullmatch(name)]
    if ignored:
        raise ManifestError(
            f"{file}: expected a part of a file to be given by the columns {START} and {END}, in seconds or HH:MM:SS, "
            f"found {', '.join(ignored)}, which would be passed over; rename them, or list them under `ignore`"
        )


def _from_manifest(name: str, dataset: DatasetSpec, settings: Settings) -> tuple[ListedVideo, ...]:
    file = settings.resolve_input(name, what="manifest of videos")
    rows = read_manifest(file)
    if not rows:
        raise NoDataError(f"expected one video a row in {file}, found none")
    _refuse_ignored(rows[0], dataset, file)
    if "path" not in rows[0]:
        raise ManifestError(f"{file}: expected a column `path`, found {', '.join(rows[0])}")
    root = settings.data or file.parent
    found: dict[str, ListedVideo] = {}
    for number, row in enumerate(rows, start=2):
        given = str(row["path"] or "").strip()
        if not given:
            raise ManifestError(f"{file}: expected a path in line {number}, found an empty one")
        if is_address(given):
            path: Place = place_at(given)
            video_id = given.partition("#")[0]
        else:
            local = with_its_spaces(root / given)
            if not os.path.exists(local) and os.path.exists(beside := with_its_spaces(file.parent / given)):
                local = beside
            video_id = path_id(local, root) if Path(given).is_absolute() else _tidy(given)
            path = local if os.path.exists(local) else place_of_path(local)
        start_s, end_s = bounds_of(row, f"{file}, line {number}")
        if start_s is not None:
            video_id = part_id(video_id, start_s, end_s)
        if video_id in found and {**found[video_id].columns, "path": ""} != {**row, "path": ""}:
            raise ManifestError(f"{file}: expected each path once, found {given!r} again in line {number}")
        found[video_id] = ListedVideo(video_id, path, row, start_s, end_s)
    _check_allowed(found.values(), settings)
    return tuple(found[video_id] for video_id in sorted(found))


def _check_allowed(videos: Iterable[ListedVideo], settings: Settings) -> None:
    """Hold the videos that a recipe or manifest names against `SCALE_ROOTS` and `SCALE_HOSTS`."""
    roots, files = split_roots(settings.roots), Files.of(settings)
    for video in videos:
        if isinstance(video.path, Elsewhere):
            files.check(video.path)
        elif roots:
            check_allowed(video.path, roots, what=f"video {video.video_id}")


def _tidy(given: str) -> str:
    return os.fsencode(PurePosixPath(os.path.normpath(given)).as_posix()).decode("utf-8", "backslashreplace")
