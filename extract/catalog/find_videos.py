"""Which files a recipe means: globs below the data folder, or the rows of a manifest."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote_to_bytes, urlsplit

from extract.catalog.manifest import is_manifest, read_manifest
from extract.catalog.parts import END, START, bounds_of, file_id, part_id
from extract.catalog.passed_over import UNFINISHED, PassedOver, is_store, with_its_spaces
from extract.decoding.image_sequence import IMAGE_SUFFIXES, is_image_sequence
from pipeline.errors import ManifestError, NoDataError
from pipeline.recipe.dataset import DatasetSpec
from pipeline.roots import check_allowed, split_roots
from pipeline.settings import Settings

_MAGIC = re.compile(r"[*?\[]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """A video that the recipe names; the file may be missing or broken."""

    video_id: str
    """Path relative to the data folder, with ``/``; bytes that are not UTF-8 are written ``\\xd3``."""
    path: Path
    columns: Mapping[str, object] = field(default_factory=dict, compare=False)
    """Its row of the manifest."""
    start_s: float | None = None
    """Where the row begins in its file, in seconds after the first frame; None: the whole file."""
    end_s: float | None = None

    @property
    def uri(self) -> str:
        """``file://`` address with every odd byte percent-encoded: the path can be had back exactly."""
        return Path(os.path.abspath(self.path)).as_uri()


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
    patterns = [dataset.videos] if isinstance(dataset.videos, str) else list(dataset.videos)
    if len(patterns) == 1 and is_manifest(patterns[0]):
        return _from_manifest(patterns[0], dataset, settings)
    root = settings.data or Path.cwd()
    if not os.path.isdir(root):
        raise NoDataError(f"expected the data folder {root}, found no such folder; give another with --data")
    passed = PassedOver()
    paths = dict.fromkeys(path for pattern in patterns for path in _glob(*_split_absolute(root, pattern), passed))
    if notes is not None:
        notes += passed.notes()
    sequences = {path for path in paths if os.path.isdir(path)}
    found: dict[str, ListedVideo] = {}
    for path in paths:
        if path.parent in sequences and path.suffix.lower() in IMAGE_SUFFIXES:
            continue  # a frame of an image sequence is not a video of its own
        video = ListedVideo(path_id(path, root), path)
        found[video.video_id] = video
    if not found:
        raise NoDataError(_why_nothing(root, patterns))
    _check_allowed(found.values(), settings)
    return tuple(found[video_id] for video_id in sorted(found))


def resolve_video(video_id: str, uri: str | None, settings: Settings) -> Path:
    """Return where a catalogued video lies now: below the data folder if it is there, else at its recorded address.

    Parameters
    ----------
    video_id, uri : str
        As in the catalogue.
    settings : Settings
    """
    if settings.data is not None:
        for name in dict.fromkeys((video_id, file_id(video_id))):
            below = settings.data / name
            if os.path.exists(below):
                return below
    if uri:
        path = Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))
        check_allowed(path, split_roots(settings.roots), what=f"video {video_id}")
        return path
    return (settings.data or Path.cwd()) / file_id(video_id)


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
        path = with_its_spaces(root / given)
        if not os.path.exists(path) and os.path.exists(beside := with_its_spaces(file.parent / given)):
            path = beside
        video_id = path_id(path, root) if Path(given).is_absolute() else _tidy(given)
        start_s, end_s = bounds_of(row, f"{file}, line {number}")
        if start_s is not None:
            video_id = part_id(video_id, start_s, end_s)
        if video_id in found and {**found[video_id].columns, "path": ""} != {**row, "path": ""}:
            raise ManifestError(f"{file}: expected each path once, found {given!r} again in line {number}")
        found[video_id] = ListedVideo(video_id, path, row, start_s, end_s)
    _check_allowed(found.values(), settings)
    return tuple(found[video_id] for video_id in sorted(found))


def _check_allowed(videos: Iterable[ListedVideo], settings: Settings) -> None:
    """Hold the videos that a recipe or manifest names against `SCALE_ROOTS`."""
    if roots := split_roots(settings.roots):
        for video in videos:
            check_allowed(video.path, roots, what=f"video {video.video_id}")


def path_id(path: Path, root: Path) -> str:
    """Return a video's id: its path relative to the data folder, as text whatever bytes it holds."""
    path, root = (Path(os.path.normpath(folder)) for folder in (path, root))  # a/../a/x is a/x
    try:
        relative = os.fsencode(path.relative_to(root).as_posix())
    except ValueError:
        relative = os.fsencode(path.as_posix())
    return relative.decode("utf-8", "backslashreplace")


def _tidy(given: str) -> str:
    return os.fsencode(PurePosixPath(os.path.normpath(given)).as_posix()).decode("utf-8", "backslashreplace")


def _split_absolute(root: Path, pattern: str) -> tuple[Path, str]:
    path = PurePosixPath(pattern)
    if not path.is_absolute():
        return root, path.as_posix()
    return Path("/"), path.relative_to("/").as_posix()


def _glob(base: Path, pattern: str, passed: PassedOver) -> Iterator[Path]:
    """Match one pattern: ``*``, ``?``, ``[..]`` and ``{a,b}`` within a name, ``**`` over folders, links followed."""
    braces = _BRACES.search(pattern)
    if braces:
        for choice in braces[1].split(","):
            yield from _glob(base, pattern[: braces.start()] + choice + pattern[braces.end() :], passed)
        return
    for path in _match(base, pattern.split("/"), (), passed):
        if not os.path.isdir(path) or is_image_sequence(path):
            yield path
        elif pattern.rsplit("/", 1)[-1] not in ("*", "**"):
            yield path  # a folder named like a video: a row that says so


def _match(folder: Path, parts: list[str], above: tuple[tuple[int, int], ...], passed: PassedOver) -> Iterator[Path]:
    head, rest = parts[0], parts[1:]
    if head == "**":
        yield from _match(folder, rest or ["*"], above, passed)
        for entry in _entries(folder):
            if _is_dir(entry) and is_store(Path(entry.path)):
                passed.add("a feature store below the data folder", folder / entry.name)
                continue
            if not entry.name.startswith(".") and _is_dir(entry):
                stat = entry.stat()
                identity = (stat.st_dev, stat.st_ino)
                if identity not in above:  # a link back to a folder above would never end
                    yield from _match(folder / entry.name, parts, (*above, identity), passed)
        return
    if not _MAGIC.search(head):
        path = folder / head
        if rest and os.path.isdir(path):
            yield from _match(path, rest, above, passed)
        elif not rest and os.path.lexists(path):
            yield path
        return
    for entry in _entries(folder):
        is_hidden = entry.name.startswith(".") and not head.startswith(".")
        if (fnmatch.fnmatchcase(entry.name, head) or entry.name == head) and not is_hidden:
            if rest:
                if _is_dir(entry):
                    yield from _match(folder / entry.name, rest, above, passed)
            elif entry.name.lower().endswith(UNFINISHED) and not head.lower().endswith(UNFINISHED):
                passed.add("an unfinished download", folder / entry.name)
            elif is_store(folder / entry.name):
                passed.add("a feature store below the data folder", folder / entry.name)
            else:
                yield folder / entry.name
        elif not rest and not is_hidden and fnmatch.fnmatchcase(entry.name.lower(), head.lower()):
            passed.add("a name that differs from the pattern in upper and lower case", folder / entry.name)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder; a link that leads round in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return []
        raise NoDataError(f"expected to list the folder {folder}, found: {(error.strerror or '').lower()}") from None


def _why_nothing(root: Path, patterns: list[str]) -> str:
    there: dict[str, int] = {}
    for number, path in enumerate(_match(root, ["**"], (), PassedOver())):
        if number >= 10_000:
            break
        if not os.path.isdir(path):
            suffix = path.suffix or "(no suffix)"
            there[suffix] = there.get(suffix, 0) + 1
    kinds = ", ".join(f"{count} x {suffix}" for suffix, count in sorted(there.items(), key=lambda i: -i[1])[:6])
    return (
        f"expected videos that match {' or '.join(patterns)} below {root}, found none "
        f"({'it holds ' + kinds if kinds else 'the folder holds no files'}); change `videos` in the recipe, or --data"
    )
