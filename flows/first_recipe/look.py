"""What a folder of videos is like: how many, how long, in which folders, with which lists and weights beside them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median

from pipeline.errors import NoDataError, NotFoundError, PipelineError
from pipeline.fingerprint import hash_file

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".avi", ".mkv", ".webm", ".mov", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv", ".gif"}
)
WEIGHTS_SUFFIXES = frozenset({".pt2", ".pyth", ".pth", ".pt", ".safetensors"})
LIST_SUFFIXES = frozenset({".csv", ".tsv", ".txt", ".parquet"})
SIDES = frozenset({"train", "val", "valid", "validation", "test"})
SAMPLE = 24
"""Videos that are looked into; spread over the whole list."""
MAX_VIDEOS = 2_000_000
_GROUPS = (r"([^/]+_g\d+)_c\d+", r"^(.+?)_[0-9a-zA-Z]+_[a-z]_cm", r"^(.+)_(?:scene|shot|clip|part|seg)?_?\d+$")
"""How published sets name clips cut from one source: UCF's group and clip, then a name with a running number."""


@dataclass(frozen=True)
class WeightsFound:
    """A weights file and what can be told of it without loading it."""

    path: Path
    sha256: str
    input_shape: tuple[int | None, ...] | None = None
    """Of an exported program; None for checkpoints."""


@dataclass(frozen=True)
class FolderLook:
    """A folder of videos."""

    folder: Path
    videos: tuple[str, ...]
    """Paths relative to the folder, with ``/``, sorted."""
    suffixes: tuple[str, ...]
    """Of the videos, as they are written, most frequent first."""
    depth: int | None
    """Folders above every video; None where they lie at different depths."""
    classes: dict[str, int]
    """Name of the parent folder -> videos; empty where there are no folders."""
    has_side_folders: bool
    """Whether the first folders are train, val, test."""
    group_pattern: str | None
    """Finds which videos were cut from one source; None where names do not tell."""
    num_groups: int
    lists: tuple[str, ...]
    """Tables in the folder itself."""
    weights: tuple[WeightsFound, ...]
    sampled: int
    unreadable: tuple[tuple[str, str], ...]
    """(path, reason) of sampled videos that do not decode."""
    durations_s: tuple[float, ...]
    fps: tuple[float, ...]
    short_side_px: tuple[int, ...]

    @property
    def median_s(self) -> float:
        """Median length of the sampled videos; 0 where none could be read."""
        return median(self.durations_s) if self.durations_s else 0.0


def look_at(folder: Path, weights: Path | None = None, *, sample: int = SAMPLE) -> FolderLook:
    """Look at a folder of videos; a few files are opened, each behind a process boundary.

    Parameters
    ----------
    folder : Path
    weights : Path, optional
        A folder with weights; None: the videos' own and ``weights`` beside it.
    sample : int
        Videos to open.

    Raises
    ------
    NotFoundError
        If there is no such folder.
    NoDataError
        If it holds no video.
    """
    from extract.catalog.inspect_videos import probe_videos

    if not folder.is_dir():
        raise NotFoundError(f"expected a folder of videos at {folder}, found none")
    found = _videos(folder)
    if not found:
        raise NoDataError(
            f"expected videos ({', '.join(sorted(VIDEO_SUFFIXES))}) below {folder}, found none; give the folder that "
            "holds them, or write a recipe with a manifest (docs/recipe.md)"
        )
    depths = {len(PurePosixPath(v).parts) - 1 for v in found}
    first = {PurePosixPath(v).parts[0].lower() for v in found if "/" in v}
    pattern, num_groups = _groups(found)
    chosen = [found[round(i * (len(found) - 1) / max(sample - 1, 1))] for i in range(min(sample, len(found)))]
    chosen = list(dict.fromkeys(chosen))
    infos = list(probe_videos([folder / c for c in chosen]))
    good = [i for i in infos if i.error is None]
    return FolderLook(
        folder=folder,
        videos=tuple(found),
        suffixes=tuple(s for s, _ in Counter(PurePosixPath(v).suffix for v in found).most_common()),
        depth=depths.pop() if len(depths) == 1 else None,
        classes=dict(Counter(PurePosixPath(v).parent.name for v in found if "/" in v)),
        has_side_folders=bool(first) and first <= SIDES,
        group_pattern=pattern,
        num_groups=num_groups,
        lists=tuple(sorted(p.name for p in folder.iterdir() if p.suffix.lower() in LIST_SUFFIXES)),
        weights=_weights([weights] if weights else [folder, folder / "weights", folder.parent / "weights"]),
        sampled=len(infos),
        unreadable=tuple((c, str(i.error)) for c, i in zip(chosen, infos, strict=True) if i.error is not None),
        durations_s=tuple(i.duration_s for i in good),
        fps=tuple(i.fps for i in good),
        short_side_px=tuple(min(i.width, i.height) for i in good),
    )


def _videos(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
            found.append(relative.as_posix())
            if len(found) > MAX_VIDEOS:
                break
    return sorted(found)


def _groups(videos: list[str]) -> tuple[str | None, int]:
    """Return the first pattern that finds several clips of one source in most names, and how many sources."""
    for pattern in _GROUPS:
        compiled = re.compile(pattern)
        keys = [m[1] if (m := compiled.search(PurePosixPath(v).stem)) else None for v in videos]
        named = [k for k in keys if k is not None]
        if len(named) > 0.8 * len(videos) and 1 < len(set(named)) < 0.9 * len(named):
            return pattern, len(set(named))
    return None, len(videos)


def _weights(folders: list[Path]) -> tuple[WeightsFound, ...]:
    found: dict[Path, WeightsFound] = {}
    for folder in folders:
        for path in sorted(folder.glob("*")) if folder.is_dir() else []:
            if path.suffix.lower() in WEIGHTS_SUFFIXES and path.is_file():
                found[path.resolve()] = WeightsFound(path, hash_file(path), _input_shape(path))
    return tuple(found.values())


def _input_shape(path: Path) -> tuple[int | None, ...] | None:
    if path.suffix != ".pt2":
        return None
    from extract.backbones.program_archive import read_signature

    try:
        return read_signature(path).input_shape
    except PipelineError:
        return None
