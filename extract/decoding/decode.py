"""Frame-exact decoding behind one small interface.

:func:`extract.decoding.opening.open_reader` gives a reader that knows when every frame is shown and
returns the frames asked for in one pass over the file::

    with open_reader(path) as reader:
        indices = sample_frame_indices(reader.frame_times_s, wanted_times_s)
        decoded = reader.read(np.unique(indices))
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import numpy as np

from extract.decoding.container import DECODE_ERRORS, describe_error
from extract.decoding.damage import Damage, DamageSeenError, survey
from extract.decoding.frame_index import FrameIndex
from extract.decoding.inspect import VideoInfo, info_of
from extract.decoding.picture import RgbConverter
from extract.decoding.scan import FrameStream, VideoScan
from extract.decoding.sound import HeardCrops, read_sound
from extract.sound.spectrogram import SoundSpec
from pipeline.errors import InvalidInputError, ShapeMismatchError, VideoError

PYAV_VERSION = f"{av.__version__}/ffmpeg-{av.ffmpeg_version_info}"
"""PyAV's version and that of the FFmpeg in its wheel."""

MIN_FRAMES_SAVED = 12
"""A seek must spare at least this many frames of decoding to be worth it."""

_SEEKABLE_FORMATS = frozenset({"mov", "mp4", "matroska", "webm"})


@dataclass(frozen=True)
class DecodedFrames:
    """The frames that could be read."""

    indices: np.ndarray
    """(n,) int64, ascending: those of the wanted frames that were decoded."""
    frames: np.ndarray
    """(n, height, width, 3) uint8 RGB."""
    error: str | None = None
    """Why the video cannot be decoded to its end; None for a sound one. Frames may all be there nevertheless."""
    untrue: np.ndarray | None = None
    """(n,) bool: frames that the decoder flagged as damaged, or made from such; None where it flagged none."""
    damage: str | None = None
    """What is wrong with the frames of the video as a whole; None where nothing was seen."""

    def __repr__(self) -> str:
        return f"DecodedFrames(frames={self.frames.shape}, error={self.error!r}, damage={self.damage!r})"


class VideoReader(Protocol):
    """What every decoder offers. One reader a thread; `read` any number of times."""

    info: VideoInfo
    """Facts about the video, as in the catalogue."""
    decoder_name: str
    """pyav or torchcodec."""
    decoder_version: str

    @property
    def frame_times_s(self) -> np.ndarray:
        """(num_frames,) float64: when each frame is shown, the first at 0."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""

    @property
    def height(self) -> int:
        """Height of the frames, after rotation."""

    @property
    def width(self) -> int:
        """Width of the frames, after rotation."""

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        """Decode the frames at `indices` (ascending, no repeats)."""

    def read_sound(self, spans_s: np.ndarray, spec: SoundSpec) -> HeardCrops:
        """Return what is heard of some spans of time; see :func:`extract.decoding.sound.read_sound`."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PyavReader:
    """Reads a video file, or a folder of images, with the FFmpeg that PyAV carries."""

    decoder_name = "pyav"
    decoder_version = PYAV_VERSION

    def __init__(self, path: Path, scan: VideoScan, stream: FrameStream | None = None, *, threads: int = 1) -> None:
        self.path = path
        self.scan = scan
        self.info = info_of(scan)
        self._threads = threads if scan.damage is None else 1
        self._converter = RgbConverter(scan.picture)
        self._stream = stream
        self._next = 0
        if scan.damage is not None and threads != 1:
            self.close()
        formats = set(scan.format_names.split(","))
        self._index_of = (
            {int(pts): k for k, pts in enumerate(scan.index.pts)}
            if scan.index.pts is not None and formats & _SEEKABLE_FORMATS
            else None
        )

    @property
    def index(self) -> FrameIndex:
        """The video's frame index."""
        return self.scan.index

    @property
    def frame_times_s(self) -> np.ndarray:
        """(num_frames,) float64: when each frame is shown, the first at 0."""
        return self.scan.index.times_s

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return self.scan.index.num_frames

    @property
    def height(self) -> int:
        """Height of the frames, after rotation."""
        return self.scan.picture.height

    @property
    def width(self) -> int:
        """Width of the frames, after rotation."""
        return self.scan.picture.width

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        """Decode frames in one pass, seeking over gaps where that spares work.

        Parameters
        ----------
        indices : ndarray of shape (n,), int64
            Frame numbers, strictly ascending.
        out : ndarray of shape (n, height, width, 3), uint8, optional
            Where to put them.

        Returns
        -------
        DecodedFrames
            With fewer frames than asked for, and `error` set, when the video breaks off.

        Raises
        ------
        InvalidInputError
            If the indices do not ascend or lie outside the video.
        """
        indices = check_indices(indices, self.num_frames)
        shape = (len(indices), self.height, self.width, 3)
        if out is None:
            out = np.empty(shape, np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ShapeMismatchError(f"expected out of shape {shape} uint8, found {out.shape} {out.dtype}")
        try:
            return self._read(indices, out)
        except DamageSeenError:
            self._read_in_one_way()
            return self._read(indices, out)

    def _read(self, indices: np.ndarray, out: np.ndarray) -> DecodedFrames:
        found: list[int] = []
        flagged: list[bool] = []
        error: str | None = None
        for wanted in indices.tolist():
            try:
                frame = self._image(wanted) if self.scan.files else self._frame(wanted)
                if frame is None:
                    continue
                self._converter.write(frame, out[len(found)])
            except VideoError as failed:
                error = error or str(failed)
                if self.scan.files:
                    continue  # the other images are files of their own
                break
            except DECODE_ERRORS as failed:
                error = error or f"frame {wanted}: {describe_error(failed)}"
                break
            found.append(wanted)
            flagged.append(frame.is_corrupt)
        numbers = np.array(found, dtype=np.int64)
        damage = self.scan.damage
        if self.scan.files and any(flagged):  # images are files of their own: each speaks for itself
            damage = Damage(np.array(flagged), sum(flagged), len(found))
        untrue = None if damage is None else damage.untrue if self.scan.files else damage.untrue[numbers]
        error = error or self.scan.index.error
        return DecodedFrames(numbers, out[: len(found)], error, untrue, None if damage is None else str(damage))

    def _read_in_one_way(self) -> None:
        """From now on read this video only from its beginning, on one thread, and know which of its frames are true.

        What a decoder makes up for lost data depends on what it decoded
        before; so frames would depend on which others are asked for.
        """
        self.close()
        self._threads = 1
        pts = self.index.pts
        by_pts = {} if pts is None else {int(stamp): k for k, stamp in enumerate(pts)}
        with FrameStream(self.path, threads=1) as stream:
            found = survey(stream)
        numbers = np.array([by_pts.get(int(stamp), -1) for stamp in found.pts], dtype=np.int64)
        if self._index_of is None and (pts is None or (numbers < 0).any()):
            numbers = np.arange(len(found.pts))  # timestamps that do not tell frames apart: they are counted
        else:
            self._index_of = by_pts
        index = replace(self.index, keyframes=np.zeros(0, np.int64))
        self.scan = replace(self.scan, index=index, damage=found.damage(numbers, self.num_frames))

    def _frame(self, wanted: int) -> av.VideoFrame | None:
        """Decode on to frame `wanted`; None if the decoder passed over it. VideoError where the video breaks off."""
        stream = self._stream
        if stream is None or wanted < self._next:
            stream = self._restart()
        start = self._start_before(wanted)
        if start - self._next >= MIN_FRAMES_SAVED:
            stream = self._jump(stream, start)
        while True:
            frame = stream.next_frame()
            if frame is None:
                reason = stream.early_end or f"the decoder gave no more than {self._next} of {self.num_frames} frames"
                raise VideoError(f"decoding stopped before frame {wanted}: {reason}")
            if self.scan.damage is None and (frame.is_corrupt or stream.num_refused > stream.num_refused_at_end):
                raise DamageSeenError
            number = self._number(frame)
            if number < self._next:  # not in the index: a picture that the container hides
                continue
            self._next = number + 1
            if number == wanted:
                return frame
            if number > wanted:
                stream.push_back(frame)
                self._next = number
                return None

    def _number(self, frame: av.VideoFrame) -> int:
        if self._index_of is None:
            return self._next
        return self._index_of.get(frame.pts, -1) if frame.pts is not None else -1

    def _start_before(self, wanted: int) -> int:
        """Return the last frame up to `wanted` at which decoding can start; 0 where jumping is not safe."""
        if self._index_of is None:
            return 0
        place = int(np.searchsorted(self.index.keyframes, wanted, side="right"))
        return int(self.index.keyframes[place - 1]) if place else 0

    def _jump(self, stream: FrameStream, start: int) -> FrameStream:
        """Seek to frame `start`; where the container does not lead there, go back to decoding from the beginning."""
        assert self.index.pts is not None
        try:
            stream.seek(int(self.index.pts[start]))
            while (frame := stream.next_frame()) is not None:
                number = self._number(frame)
                if number == start:
                    stream.push_back(frame)
                    self._next = start
                    return stream
                if number > start:
                    break
        except DECODE_ERRORS:
            pass  # a container whose index is broken can still be read from the beginning
        self.scan = replace(self.scan, index=replace(self.index, keyframes=np.zeros(0, np.int64)))
        return self._restart()

    def _image(self, wanted: int) -> av.VideoFrame:
        file = self.scan.files[wanted]
        try:
            with FrameStream(file, threads=1) as stream:
                frame = stream.next_frame()
                if frame is None:
                    raise VideoError(stream.early_end or "no picture")
                return frame
        except VideoError as failed:
            raise VideoError(f"image {file.name} cannot be decoded: {failed}") from None

    def _restart(self) -> FrameStream:
        self.close()
        self._stream = FrameStream(self.path, threads=self._threads)
        self._next = 0
        return self._stream

    def read_sound(self, spans_s: np.ndarray, spec: SoundSpec) -> HeardCrops:
        """Return what is heard of some spans; the file is opened once more for it."""
        return read_sound(self.path, self.info.start_s, spans_s, spec)

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_indices(indices: np.ndarray, num_frames: int) -> np.ndarray:
    """Return `indices` as int64 if they ascend strictly within the video.

    Raises
    ------
    InvalidInputError
        If they do not.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
        raise InvalidInputError(f"expected a vector of frame numbers, found shape {indices.shape} {indices.dtype}")
    indices = indices.astype(np.int64)
    if indices.size and (indices[0] < 0 or indices[-1] >= num_frames or (np.diff(indices) <= 0).any()):
        raise InvalidInputError(
            f"expected ascending frame numbers within 0..{num_frames - 1}, found {indices[0]}..{indices[-1]}"
            + (" with repeats or out of order" if (np.diff(indices) <= 0).any() else "")
        )
    return indices
