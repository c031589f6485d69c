"""Small pictures of a video, for pages: JPEG files at evenly spread times."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from extract.catalog.find_videos import resolve_video
from extract.decoding.opening import open_reader
from extract.pixels.preview_strips import frames_of_strip
from extract.places.files import Files
from pipeline.errors import FormatError, VideoError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.settings import Settings
    from pipeline.store.previews import Preview

JPEG_QUALITY = 80


def video_thumbnails(path: str | os.PathLike[str], num: int = 3, *, width_px: int = 256) -> list[bytes]:
    """Return JPEG files of `num` frames, in the order of time.

    Parameters
    ----------
    path : path
    num : int
        The video is cut into so many equal parts and the middle frame of each is taken; fewer for a video of
        fewer frames.
    width_px : int
        Of the pictures; the height follows the frame's shape. Never enlarged.

    Returns
    -------
    list of bytes

    Raises
    ------
    VideoError
        If no frame can be decoded.
    """
    from PIL import Image

    with open_reader(path) as reader:
        wanted = np.unique(((np.arange(num) + 0.5) / num * reader.num_frames).astype(np.int64))
        frames = reader.read(wanted).frames
    pictures = []
    for frame in frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((width_px, max(1, width_px * 4)), Image.Resampling.BICUBIC, reducing_gap=2.0)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
        pictures.append(buffer.getvalue())
    return pictures


def catalogue_thumbnails(
    videos: pa.Table,
    settings: Settings,
    num: int = 3,
    *,
    width_px: int = 256,
    kept: Callable[[int], Preview | None] | None = None,
) -> Callable[[int], list[bytes]]:
    """Return a function from a row of the catalogue to pictures of its video.

    Parameters
    ----------
    videos : pyarrow.Table
        The catalogue of a dataset; size and hash are only needed of what is fetched from elsewhere.
    settings : Settings
        `data` says where the videos lie now.
    num, width_px : int
        As for :func:`video_thumbnails`.
    kept : callable, optional
        Row -> the strip that a store holds of a video, shown where the video itself is not at hand:
        :meth:`pipeline.Dataset.preview`.

    Returns
    -------
    callable
        Row -> JPEG files; an empty list where the video is gone or cannot be decoded any more, and nothing was kept.
    """
    rows = videos.column("row").to_pylist()
    columns = [
        videos.column(name).to_pylist() if name in videos.column_names else [None] * len(rows)
        for name in ("video_id", "uri", "bytes", "sha256")
    ]
    known = dict(zip(rows, zip(*columns, strict=True), strict=True))
    files = Files.of(settings)

    def thumbnails(row: int) -> list[bytes]:
        video_id, uri, num_bytes, sha256 = known[row]
        try:
            with files.lend(resolve_video(video_id, uri, settings, num_bytes=num_bytes, sha256=sha256)) as lease:
                return video_thumbnails(lease.path, num, width_px=width_px)
        except VideoError:
            return [] if kept is None else _kept(kept, row, num)

    return thumbnails


def _kept(kept: Callable[[int], Preview | None], row: int, num: int) -> list[bytes]:
    try:
        preview = kept(row)
    except FormatError:  # damaged: `scale verify` says so
        return []
    if preview is None or not preview.times_s:
        return []
    return frames_of_strip(preview, np.linspace(preview.times_s[0], preview.times_s[-1], num + 2)[1:-1].tolist())
