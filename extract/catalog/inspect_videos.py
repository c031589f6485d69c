"""Looking into many videos at once, each behind a process boundary: demultiplexers crash and hang too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from extract.decoding.decode_pool import DecodePool
from extract.decoding.inspect import VideoInfo
from extract.places.elsewhere import Place
from extract.places.files import Files
from pipeline.compute.threads import num_cores


def probe_videos(
    paths: Sequence[Place], *, workers: int = 0, image_fps: float = 30.0, files: Files | None = None
) -> Iterator[VideoInfo]:
    """Yield what :func:`extract.decoding.inspect.inspect_video` finds in each video, in order, with its sha256.

    Parameters
    ----------
    paths : sequence of Path or Elsewhere
    workers : int
        Processes; 0 takes one a core.
    image_fps : float
        Frame rate of image folders.
    files : Files, optional
        Brings videos from elsewhere at hand.
    """
    if not paths:
        return
    with DecodePool(min(workers or num_cores(), len(paths)), files=files) as pool:
        yield from pool.inspect_all(paths, image_fps=image_fps)


def hash_videos(paths: Sequence[Place], *, workers: int = 0, files: Files | None = None) -> Iterator[str | None]:
    """Yield the sha256 of each video; None where it cannot be read now."""
    for info in probe_videos(paths, workers=workers, files=files):
        yield info.sha256
