"""One look through a video: its packets, its first frames, and from them the frame index and the picture shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from extract.decoding import heartbeat
from extract.decoding.container import (
    DECODE_ERRORS,
    choose_stream,
    describe_error,
    is_animated_webp,
    is_encrypted,
    open_container,
    prepare_decoder,
)
from extract.decoding.frame_index import (
    _PACKED_MAX_BYTES,
    MISSING,
    FrameIndex,
    PacketTable,
    index_from_frames,
    index_from_packets,
)
from extract.decoding.picture import Picture, picture_of
from extract.decoding.random_access import is_torn, length_field_bytes, starts_cleanly
from pipeline.errors import VideoError


@dataclass(frozen=True)
class VideoScan:
    """What is known of a video before its frames are read."""

    index: FrameIndex
    picture: Picture
    codec: str
    format_names: str
    files: tuple[Path, ...] = ()
    """The images of an image sequence; empty for a video file."""
    stream_index: int = 0
    """Which of the container's streams."""


_EMPTY_PACKETS_REPEAT = frozenset({"theora"})
"""Codecs in which an empty packet is sound and says: show the last frame again. FFmpeg's decoders refuse it, as they do
in the codecs where it is a sign of damage."""


class FrameStream:
    """The decoded frames of one opened video, one after the other, until its end or a broken packet."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self.container: InputContainer = open_container(path)
        try:
            self.stream = choose_stream(self.container)
            prepare_decoder(self.stream, threads=threads)
        except BaseException:
            self.container.close()
            raise
        self.error: str | None = None
        """Why the frames ended; None at a regular end."""
        self._frames = self._decoded()
        self._ahead: deque[VideoFrame] = deque()

    def peek(self, num_frames: int) -> list[VideoFrame]:
        """Decode ahead and return the next frames without consuming them; fewer where the video ends."""
        while len(self._ahead) < num_frames and self.error is None:
            frame = self._decode()
            if frame is None:
                break
            self._ahead.append(frame)
        return list(self._ahead)[:num_frames]

    def next_frame(self) -> VideoFrame | None:
        """Return the next frame; None when there is none, with `error` set if the end came too early."""
        return self._ahead.popleft() if self._ahead else self._decode()

    def push_back(self, frame: VideoFrame) -> None:
        """Make a frame the next one again."""
        self._ahead.appendleft(frame)

    def _decode(self) -> VideoFrame | None:
        try:
            frame = next(self._frames, None)
        except DECODE_ERRORS as error:
            self.error = describe_error(error)
            return None
        heartbeat.beat()
        return frame

    def seek(self, pts: int) -> None:
        """Go on from the last keyframe at or before `pts`, in units of the time base."""
        self._ahead.clear()
        self.container.seek(pts, stream=self.stream, backward=True, any_frame=False)
        self._frames = self._decoded()

    def _decoded(self) -> Iterator[VideoFrame]:
        if self.stream.codec_context.name not in _EMPTY_PACKETS_REPEAT:
            return self.container.decode(self.stream)
        return self._decoded_without_empty_packets()

    def _decoded_without_empty_packets(self) -> Iterator[VideoFrame]:
        for packet in self.container.demux(self.stream):
            if packet.size:
                yield from packet.decode()
        yield from self.stream.decode(None)

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self._ahead.clear()
        self.container.close()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


PROBE_FRAMES = 8
"""Frames decoded to know that a video can be decoded; some encrypted ones show a few before they refuse."""


def scan_video(path: Path, *, threads: int = 1) -> VideoScan:
    """Look through a video; see :func:`open_scanned`."""
    scan, frames = open_scanned(path, threads=threads)
    frames.close()
    return scan


def open_scanned(path: Path, *, threads: int = 1) -> tuple[VideoScan, FrameStream]:
    """Demultiplex a video, decode its first frames, and all of them where packets cannot be taken for frames.

    Parameters
    ----------
    path : Path
        A regular file; see :func:`extract.decoding.container.check_readable`.
    threads : int

    Returns
    -------
    scan : VideoScan
    frames : FrameStream
        At the first frame, to go on with.

    Raises
    ------
    VideoError
        If no frame can be decoded, with the reason.
    """
    try:
        with open_container(path) as container:
            packets = read_packets(container)
            stream = choose_stream(container)
            format_names, fps_hint = container.format.name, float(stream.average_rate or 0)
    except DECODE_ERRORS as error:
        raise VideoError(f"cannot be read: {describe_error(error)}") from None
    frames = FrameStream(path, threads=threads)
    try:
        codec = frames.stream.codec_context.name
        reason = packets.why_count_by_decoding(format_names, codec)
        num_expected = min(PROBE_FRAMES, len(packets.pts))
        probed = frames.peek(max(num_expected, 1))
        if not probed:
            raise VideoError(_why_no_frame(packets, frames.error, is_animated_webp(path)))
        picture = picture_of(probed[0], frames.stream.sample_aspect_ratio)
        index = index_from_packets(packets, fps_hint)
        if reason or frames.error or len(probed) < num_expected or not _in_order(frames, probed, index, packets):
            index = _count_frames(frames, packets, fps_hint)
            frames.close()
            frames = FrameStream(path, threads=threads)
        scan = VideoScan(index, picture, codec, format_names, stream_index=frames.stream.index)
    except DECODE_ERRORS as error:
        frames.close()
        raise VideoError(f"cannot be decoded: {describe_error(error)}") from None
    except BaseException:
        frames.close()
        raise
    return scan, frames


def _in_order(frames: FrameStream, probed: list[VideoFrame], index: FrameIndex, packets: PacketTable) -> bool:
    """Whether frames come out of the decoder in the order of their timestamps, as far as can be told without decoding.

    A file whose timestamps are nonsense has frames all the same, in the
    decoder's order. So has one that begins with pictures that refer to others
    before it: those are never shown.
    """
    stamps = [frame.pts for frame in probed]
    if index.pts is not None and None not in stamps and stamps != index.pts[: len(stamps)].tolist():
        return False
    return bool(frames.stream.codec_context.has_b_frames) or bool((np.diff(packets.pts) > 0).all())


def _count_frames(frames: FrameStream, packets: PacketTable, fps_hint: float) -> FrameIndex:
    """Decode what is left of a video to know how many frames it has and when they are shown."""
    stamps = []
    while (frame := frames.next_frame()) is not None:
        stamps.append(_stamps(frame))
    pts, dts = (np.array(column, dtype=np.int64) for column in zip(*stamps, strict=True))
    error = frames.error or packets.error
    if error:
        error = f"decoding stops after {len(stamps)} frames: {'encrypted: ' * packets.is_encrypted}{error}"
    return index_from_frames(pts, dts, packets, fps_hint, error)


def read_packets(container: InputContainer) -> PacketTable:
    """Demultiplex the chosen stream of an opened container, without decoding.

    Raises
    ------
    VideoError
        If the container has no video stream.
    """
    stream = choose_stream(container)
    codec = stream.codec_context.name
    is_h264 = codec == "h264"
    nal_length_bytes = length_field_bytes(codec, stream.codec_context.extradata)
    rows: list[tuple[int, int, bool]] = []
    discarded = tiny = 0
    missing = encrypted = corrupt = False
    error = None
    try:
        for packet in container.demux(stream):
            heartbeat.beat()
            if packet.size == 0:  # the end of the stream, or a dropped frame in AVI
                continue
            if packet.is_discard:
                discarded += 1
                continue
            if not rows:
                encrypted = is_encrypted(container, packet)
            tiny += packet.size <= _PACKED_MAX_BYTES
            corrupt = corrupt or packet.is_corrupt or is_torn(packet, codec, nal_length_bytes)
            missing |= packet.pts is None
            stamp = packet.pts if packet.pts is not None else packet.dts
            is_start = packet.is_keyframe and (not is_h264 or starts_cleanly(packet, nal_length_bytes))
            rows.append((MISSING if stamp is None else stamp, packet.duration or 0, is_start))
    except DECODE_ERRORS as raised:
        error = describe_error(raised)
    return PacketTable(
        pts=np.array([row[0] for row in rows], dtype=np.int64),
        durations=np.array([row[1] for row in rows], dtype=np.int64),
        keyframes=np.array([row[2] for row in rows], dtype=bool),
        time_base_s=float(stream.time_base or 0),
        num_discarded=discarded,
        num_tiny=tiny,
        num_header_frames=stream.frames,
        has_missing=missing,
        is_encrypted=encrypted,
        is_corrupt=corrupt,
        error=error,
    )


def _stamps(frame: VideoFrame) -> tuple[int, int]:
    return (MISSING if frame.pts is None else frame.pts, MISSING if frame.dts is None else frame.dts)


def _why_no_frame(packets: PacketTable, decode_error: str | None, is_webp: bool) -> str:
    if is_webp:
        return "an animated WebP, which FFmpeg cannot decode; turn it into an mp4 or a folder of images"
    if packets.is_encrypted:
        return "encrypted: no frame can be decoded without its key"
    if not len(packets.pts):
        claimed = f" (its header claims {packets.num_header_frames} frames)" if packets.num_header_frames else ""
        return f"no frame: the file holds no video data{claimed}" + (f": {packets.error}" if packets.error else "")
    reason = decode_error or packets.error or "no picture came out"
    return f"none of its {len(packets.pts)} frames can be decoded: {reason}"
