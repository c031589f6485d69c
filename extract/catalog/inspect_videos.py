"""Looking into many videos at once, each behind a process boundary: demultiplexers crash and hang too."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from extract.decoding.decode_pool import DecodePool
from extract.decoding.inspect import VideoInfo
from extract.places.elsewhere import Place
from extract.places.files import Files
from pipeline.compute.threads import num_cores

_FILES_A_PROCESS = 16
_BYTES_A_PROCESS = 64 << 20
"""Worth a process of their own: to start one takes as long as to look into these."""


def probe_videos(
    paths: Sequence[Place], *, workers: int = 0, image_fps: float = 30.0, files: Files | None = None
) -> Iterator[VideoInfo]:
    """Yield what :func:`extract.decoding.inspect.inspect_video` finds in each video, in order, with its sha256.

    Parameters
    ----------
    paths : sequence of Path or Elsewhere
    workers : int
        Processes; 0 takes one a core, fewer where there is little to look into.
    image_fps : float
        Frame rate of image folders.
    files : Files, optional
        Brings videos from elsewhere at hand.
    """
    if not paths:
        return
    with DecodePool(min(workers or worthwhile_processes(paths), len(paths)), files=files) as pool:
        yield from pool.inspect_all(paths, image_fps=image_fps)


def worthwhile_processes(places: Sequence[Place]) -> int:
    """Return how many processes are worth their start; what lies elsewhere is waited for, so each is worth one."""
    cores, work = num_cores(), 0.0
    for place in places:
        if not isinstance(place, Path):
            work += 1
        else:
            try:
                found = place.stat()
            except (OSError, ValueError):
                continue
            work += 1.0 if stat.S_ISDIR(found.st_mode) else 1 / _FILES_A_PROCESS + found.st_size / _BYTES_A_PROCESS
        if work >= cores:
            return cores
    return max(1, round(work))
