"""Looking into many videos at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from extract.inspect import VideoInfo, hash_file, inspect_video
from pipeline.errors import VideoError


def probe_videos(paths: Sequence[Path], *, workers: int = 0) -> Iterator[VideoInfo]:
    """Yield what :func:`extract.inspect.inspect_video` finds in each, in order, with sha256."""
    for path in paths:
        yield inspect_video(path, hash_bytes=True)


def hash_videos(paths: Sequence[Path], *, workers: int = 0) -> Iterator[str | None]:
    """Yield the sha256 of each; None where it cannot be read now."""
    for path in paths:
        try:
            yield hash_file(path)
        except VideoError:
            yield None
