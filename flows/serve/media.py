"""Pictures and videos of a catalogue: only files that the catalogue names, below the data folders that were given.

Where extraction kept small pictures (`previews` in the recipe), they are shown first, and where the videos are not.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from flows.serve.limits import Turns
from flows.serve.stores import HeldDataset
from pipeline.errors import FormatError, NotFoundError, VideoError
from pipeline.settings import Settings

PLAYABLE = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".webm": "video/webm",
    ".ogv": "video/ogg",
    ".mov": "video/quicktime",
}
"""Containers that browsers may play; of others frames are shown."""
THUMBNAIL_PX = 240
FRAME_PX = 960
CACHE_BYTES = 64 << 20


class Pictures:
    """Frames of stored videos as JPEG, decoded in a guarded process, kept in a cache of bounded size."""

    def __init__(self, settings: Settings, turns: Turns, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._settings = settings
        self._turns = turns
        self._cache: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._bytes, self._max_bytes = 0, cache_bytes
        self._lock = threading.Lock()
        self._pool: object | None = None

    def video_path(self, held: HeldDataset, row: int) -> Path:
        """Return the file of a row.

        Raises
        ------
        NotFoundError
            If no data folder was given, or the file is gone, outside of it, or not the catalogued one.
        """
        from extract.catalog.find_videos import resolve_video

        if self._settings.data is None:
            raise NotFoundError("expected the folder of the videos, found none given; start `scale serve` with --data")
        if not held.present[row]:
            raise NotFoundError(f"expected a video in row {row}, found that it was removed")
        record = held.videos.slice(row, 1).select(["video_id", "uri", "bytes"]).to_pylist()[0]
        root = self._settings.data.resolve()
        try:
            place = resolve_video(record["video_id"], record["uri"], self._settings)
            if not isinstance(place, Path):
                raise NotFoundError(
                    f"expected the video {record['video_id']} as a file below {root}, found it at {place}; "
                    "pages fetch nothing"
                )
            path = place.resolve(strict=True)
        except (VideoError, OSError) as error:
            raise NotFoundError(f"expected the video {record['video_id']} below {root}, found none: {error}") from None
        if not path.is_relative_to(root) or not (path.is_file() or path.is_dir()):
            raise NotFoundError(f"expected the video {record['video_id']} below {root}, found it elsewhere")
        if path.is_file() and record["bytes"] is not None and path.stat().st_size != record["bytes"]:
            raise NotFoundError(
                f"expected {record['bytes']} bytes of {record['video_id']}, found {path.stat().st_size}: another file"
            )
        return path

    def thumbnail(self, held: HeldDataset, row: int, *, at: float = 0.5, width_px: int = THUMBNAIL_PX) -> bytes:
        """Return the frame at a share `at` (0 to 1) of a video as JPEG.

        Raises
        ------
        NotFoundError
            If the video is not at hand or no frame of it can be decoded.
        """
        key = (held.dataset.name, held.videos["sha256"][row].as_py() or row, row, round(at, 4), width_px)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        picture = self._made(held, row, at, width_px)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = picture
                self._bytes += len(picture)
            while self._bytes > self._max_bytes:
                self._bytes -= len(self._cache.popitem(last=False)[1])
        return picture

    def _made(self, held: HeldDataset, row: int, at: float, width_px: int) -> bytes:
        """Return a small picture from its strip; a large one from the video where that is at hand."""
        kept = self.kept(held, row, at)
        if kept is not None and width_px <= THUMBNAIL_PX:
            return kept
        try:
            path = self.video_path(held, row)
            with self._turns.take():
                return self._decode(path, at, width_px)
        except NotFoundError:
            if kept is None:
                raise
            return kept

    def has(self, held: HeldDataset, row: int) -> bool:
        """Whether there is something to make a small picture of: a strip in the store, or the video's file."""
        try:
            if held.dataset.preview(row) is not None:
                return True
            self.video_path(held, row)
        except (FormatError, NotFoundError):
            return False
        return True

    @staticmethod
    def kept(held: HeldDataset, row: int, at: float = 0.5) -> bytes | None:
        """Return the frame nearest to a share of a video out of the strip in the store; None where there is none."""
        try:
            preview = held.dataset.preview(row)
        except FormatError:  # damaged: the video itself may be at hand, and `verify` says so
            return None
        if preview is None:
            return None
        from extract.pixels.preview_strips import frames_of_strip

        start_s = held.videos["start_s"][row].as_py() or 0.0
        wanted_s = start_s + at * (held.videos["duration_s"][row].as_py() or 0.0)
        return next(iter(frames_of_strip(preview, [wanted_s])), None)

    def _decode(self, path: Path, at: float, width_px: int) -> bytes:
        from PIL import Image

        try:
            with self._open_pool().open_reader(path) as reader:  # type: ignore[attr-defined]
                number = min(int(at * reader.num_frames), reader.num_frames - 1)
                frames = np.array(reader.read(np.array([max(number, 0)])).frames)
        except VideoError as error:
            raise NotFoundError(f"expected a frame of {path.name}, found none: {error}") from None
        if not len(frames):
            raise NotFoundError(f"expected a frame of {path.name}, found none")
        picture = Image.fromarray(frames[0])
        picture.thumbnail((width_px, width_px * 4))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=82)
        return buffer.getvalue()

    def _open_pool(self) -> object:
        with self._lock:
            if self._pool is None:
                from extract.decoding.decode_pool import DecodePool

                self._pool = DecodePool(1, timeout_s=20.0)
            return self._pool

    def close(self) -> None:
        """End the decoding process."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()  # type: ignore[attr-defined]


def etag_of(*parts: object) -> str:
    """Return an ETag of what decides an answer."""
    return '"' + hashlib.sha256(repr(parts).encode()).hexdigest()[:24] + '"'


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a single byte range; None where the whole is asked for.

    Raises
    ------
    ValueError
        If the range does not lie in the file.
    """
    if not header or not header.startswith("bytes=") or "," in header:
        return None
    first, dash, last = header[6:].strip().partition("-")
    if not dash or not (first.isdigit() or (not first and last.isdigit())) or (last and not last.isdigit()):
        return None
    if not first:
        length = min(int(last), size)
        if not length:
            raise ValueError(header)
        return size - length, size
    start = int(first)
    stop = min(int(last) + 1, size) if last else size
    if start >= size or stop <= start:
        raise ValueError(header)
    return start, stop
