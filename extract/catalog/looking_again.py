"""Known videos whose files are not what they were: late, half copied, mended, or replaced.

A file that never gave a feature is simply described anew. One that did keeps its facts and its features, unless it is
to be replaced by name: features are never mixed from two files, and never change without somebody saying so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from extract.catalog.inspect_videos import probe_videos
from extract.catalog.listed_video import ListedVideo
from extract.catalog.matching import how_many
from extract.catalog.parts import facts_of_part
from extract.decoding.inspect import VideoInfo
from extract.places.elsewhere import Elsewhere, Place
from extract.places.files import Files
from pipeline.settings import Settings
from pipeline.status import VideoStatus

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset


@dataclass(frozen=True)
class KnownVideo:
    """A video of the catalogue whose file may not be what it was."""

    row: int
    video: ListedVideo
    sha256: str | None
    """As catalogued; None where there was nothing to hash."""
    num_bytes: int | None
    error: str | None = None
    """Why it could not be read when it was catalogued."""


@dataclass(frozen=True)
class LookedAgain:
    """What a second look found."""

    facts: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    """Rows that are to be described anew, and their facts."""
    late: tuple[KnownVideo, ...] = ()
    """Of those: which could not be used before."""
    replaced: tuple[KnownVideo, ...] = ()
    """Of those: which gave features, made from the file before."""
    kept: tuple[KnownVideo, ...] = ()
    """Changed, but with features of the file before: left as they are."""
    num_interrupted: int = 0
    """Their reading was killed; the next run looks again."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Rows described anew that cannot be used now either, and why."""


def may_have_changed(video: ListedVideo, known: Mapping[str, Any], looked_at: datetime) -> bool:
    """Whether a known video must be read again: its size or anything about its inode changed since it was looked at."""
    if isinstance(video.path, Elsewhere):  # what is fetched is held against the catalogue each time
        return known["sha256"] is None or video.path.num_bytes not in (None, known["bytes"])
    try:
        found = os.stat(video.path)
    except (OSError, ValueError):
        return False  # gone for now; extraction says so where it matters
    if known["sha256"] is None:
        return True  # there was nothing to hash, and now there is
    if not os.path.isfile(video.path):
        return os.path.isdir(video.path)  # an image folder: its own times do not tell
    # ctime cannot be set back by copying tools as mtime can
    return found.st_size != known["bytes"] or max(found.st_ctime, found.st_mtime) >= looked_at.timestamp()


def look_again(
    to_check: Sequence[KnownVideo], dataset: Dataset, settings: Settings, *, replace: bool, image_fps: float
) -> LookedAgain:
    """Read the files of known videos again and say what is to become of their rows; nothing is written.

    Parameters
    ----------
    replace : bool
        Whether files that gave features are described anew, too.
    """
    paths = list(dict.fromkeys(known.video.path for known in to_check))
    looked = probe_videos(paths, workers=settings.workers, image_fps=image_fps, files=Files.of(settings))
    found: dict[Place, VideoInfo] = dict(zip(paths, looked, strict=True))
    changed: list[KnownVideo] = []
    num_interrupted = 0
    for known in to_check:
        info = found[known.video.path]
        num_interrupted += info.status == VideoStatus.INTERRUPTED
        if info.status != VideoStatus.INTERRUPTED and info.sha256 is not None and _is_other(known, info):
            changed.append(known)
    with_features = set(dataset.rows_with_features([known.row for known in changed]))
    taken = [known for known in changed if replace or known.row not in with_features]
    facts = {
        known.row: {"uri": known.video.uri, **facts_of_part(info, known.video.start_s, known.video.end_s)}
        for known, info in ((known, found[known.video.path]) for known in taken)
    }
    return LookedAgain(
        facts=facts,
        late=tuple(known for known in taken if known.error is not None and facts[known.row]["probe_error"] is None),
        replaced=tuple(known for known in taken if known.row in with_features),
        kept=tuple(known for known in changed if known.row in with_features and not replace),
        num_interrupted=num_interrupted,
        errors={row: error for row, given in facts.items() if (error := given["probe_error"]) is not None},
    )


def _is_other(known: KnownVideo, info: VideoInfo) -> bool:
    """Whether the file has other bytes, or can be used now though its bytes are the same (rights, another decoder)."""
    return info.sha256 != known.sha256 or (known.error is not None and info.error is None)


def told(found: LookedAgain) -> list[str]:
    """Say what became of files that are not what they were."""
    texts = []
    if found.late:
        what = "videos could not be used before and can now"
        texts.append(how_many(len(found.late), what, found.late[0].video.video_id))
    if found.replaced:
        what = "videos were replaced; their features are made again"
        texts.append(how_many(len(found.replaced), what, found.replaced[0].video.video_id))
    if found.kept:
        first = found.kept[0]
        what = "known videos have other bytes than their features were made from"
        texts.append(
            f"{how_many(len(found.kept), what, first.video.video_id)}; row {first.row} was catalogued with sha256 "
            f"{str(first.sha256)[:16]}..., {first.video.path} has others. Their features stay; "
            "`scale catalog --replace` takes the new files, or give a changed video a new path"
        )
    return texts
