"""One look through a video: its packets, its first frames, and from them the frame index and the picture shape."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame

from extract import heartbeat
from extract.container import (
    DECODE_ERRORS,
    choose_stream,
    describe_error,
    is_encrypted,
    open_container,
    prepare_decoder,
)
from extract.frame_index import (
    _PACKED_MAX_BYTES,
    MISSING,
    FrameIndex,
    PacketTable,
    index_from_frames,
    index_from_packets,
)
from extract.picture import Picture, picture_of
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
        self._frames: Iterator[VideoFrame] = self.container.decode(self.stream)

    def next_frame(self) -> VideoFrame | None:
        """Return the next frame; None when there is none, with `error` set if the end came too early."""
        try:
            frame = next(self._frames, None)
        except DECODE_ERRORS as error:
            self.error = describe_error(error)
            return None
        heartbeat.beat()
        return frame

    def seek(self, pts: int) -> None:
        """Go on from the last keyframe at or before `pts`, in units of the time base."""
        self.container.seek(pts, stream=self.stream, backward=True, any_frame=False)
        self._frames = self.container.decode(self.stream)

    def close(self) -> None:
        """Close the file."""
        self._frames = iter(())
        self.container.close()

    def __enter__(self) -> FrameStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def scan_video(path: Path, *, probe_frames: int = 1, threads: int = 1) -> VideoScan:
    """Demultiplex a video, decode its first frames, and all of them where packets cannot be taken for frames.

    Parameters
    ----------
    path : Path
        A regular file; see :func:`extract.container.check_readable`.
    probe_frames : int
        Frames that must decode (or all, in a shorter video) before packets are believed.
    threads : int

    Raises
    ------
    VideoError
        If no frame can be decoded, with the reason.
    """
    with open_container(path) as container:
        packets = read_packets(container)
        stream = choose_stream(container)
        format_names, fps_hint = container.format.name, float(stream.average_rate or 0)
    with FrameStream(path, threads=threads) as frames:
        codec = frames.stream.codec_context.name
        first = frames.next_frame()
        if first is None:
            raise VideoError(_why_no_frame(packets, frames.error))
        picture = picture_of(first, frames.stream.sample_aspect_ratio)
        reason = packets.why_count_by_decoding(format_names, codec)
        stamps = [_stamps(first)]
        while frames.error is None and (reason or len(stamps) < min(probe_frames, len(packets.pts))):
            frame = frames.next_frame()
            if frame is None:
                break
            stamps.append(_stamps(frame))
        ended_early = len(stamps) < min(probe_frames, len(packets.pts))
        if reason or ended_early or frames.error:
            pts, dts = (np.array(column, dtype=np.int64) for column in zip(*stamps, strict=True))
            error = frames.error or packets.error
            if error:
                error = f"decoding stops after {len(stamps)} frames: {'encrypted: ' * packets.is_encrypted}{error}"
            index = index_from_frames(pts, dts, packets, fps_hint, error)
        else:
            index = index_from_packets(packets, fps_hint)
    return VideoScan(index, picture, codec, format_names, stream_index=frames.stream.index)


def read_packets(container: InputContainer) -> PacketTable:
    """Demultiplex the chosen stream of an opened container, without decoding.

    Raises
    ------
    VideoError
        If the container has no video stream.
    """
    stream = choose_stream(container)
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
            corrupt |= packet.is_corrupt
            missing |= packet.pts is None
            stamp = packet.pts if packet.pts is not None else packet.dts
            rows.append((MISSING if stamp is None else stamp, packet.duration or 0, packet.is_keyframe))
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


def _why_no_frame(packets: PacketTable, decode_error: str | None) -> str:
    if packets.is_encrypted:
        return "encrypted: no frame can be decoded without its key"
    if not len(packets.pts):
        claimed = f" (its header claims {packets.num_header_frames} frames)" if packets.num_header_frames else ""
        return f"no frame: the file holds no video data{claimed}" + (f": {packets.error}" if packets.error else "")
    reason = decode_error or packets.error or "no picture came out"
    return f"none of its {len(packets.pts)} frames can be decoded: {reason}"
