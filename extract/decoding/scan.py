"""One look through a video: its packets, its first frames, and from them the frame index and the picture shape."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.packet import Packet
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
    why_encrypted,
)
from extract.decoding.damage import Damage, survey
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
    damage: Damage | None = None
    """What is wrong with its frames; None where all of them were not looked at yet, or nothing is."""


class FrameStream:
    """The decoded frames of one opened video, one after the other; over packets that the decoder refuses it goes on."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self.container: InputContainer = open_container(path)
        try:
            self.stream = choose_stream(self.container)
            prepare_decoder(self.stream, threads=threads)
        except BaseException:
            self.container.close()
            raise
        self.error: str | None = None
        """Why the packets ended; None at a regular end."""
        self.num_refused = 0
        """Packets that the decoder refused so far."""
        self.num_refused_at_end = 0
        """Of these, the last ones in a row: no packet after them was taken."""
        self.refusal: str | None = None
        """What the decoder said about the first of them."""
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
        """Return the next frame; None when there is none, with `early_end` set if the end came too early."""
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
        for packet in self._packets():
            try:
                frames = packet.decode()
            except MemoryError:
                raise
            except DECODE_ERRORS as error:
                heartbeat.beat()
                self.num_refused += 1
                self.num_refused_at_end += 1
                self.refusal = self.refusal or describe_error(error)
                continue
            self.num_refused_at_end = 0
            yield from frames
        yield from self.stream.decode(None)

    def _packets(self) -> Iterator[Packet]:
        """Demultiplex. Empty packets mean the end to a decoder, but stand for a dropped or repeated frame in a file."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.size or packet.has_sidedata("new_extradata"):
                    yield packet
        except DECODE_ERRORS as error:
            self.error = describe_error(error)

    @property
    def early_end(self) -> str | None:
        """Why frames that should follow the last one cannot be had; None at a regular end."""
        return self.error or (self.refusal if self.num_refused_at_end else None)

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


MAX_RECENT_SCANS = 4
_recent: OrderedDict[tuple[str, int, int, int], VideoScan] = OrderedDict()
"""What was found in the files looked through last: rows that are parts of one file follow each other."""


def open_scanned(path: Path, *, threads: int = 1) -> tuple[VideoScan, FrameStream]:
    """Look through a video, or remember what was found in it a moment ago; see :func:`look_through`."""
    about = path.stat()
    key = (str(path), about.st_size, about.st_mtime_ns, about.st_ino)
    if (known := _recent.get(key)) is not None:
        return known, FrameStream(path, threads=threads)
    scan, frames = look_through(path, threads=threads)
    _recent[key] = scan
    if len(_recent) > MAX_RECENT_SCANS:
        _recent.popitem(last=False)
    return scan, frames


def look_through(path: Path, *, threads: int = 1) -> tuple[VideoScan, FrameStream]:
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
            stream = choose_stream(container)
            if how := why_encrypted(container, stream):
                raise VideoError(f"encrypted ({how}): no frame can be decoded without its key")
            packets = read_packets(container)
            format_names, fps_hint = container.format.name, float(stream.average_rate or 0)
    except DECODE_ERRORS as error:
        raise VideoError(f"cannot be read: {describe_error(error)}") from None
    if packets.encrypted_from is not None:
        where = f" (from packet {packets.encrypted_from} of {len(packets.pts)} on)" if packets.encrypted_from else ""
        raise VideoError(f"encrypted{where}: no frame can be decoded without its key")
    frames = FrameStream(path, threads=threads)
    try:
        codec = frames.stream.codec_context.name
        reason = packets.why_count_by_decoding(format_names, codec)
        num_expected = min(PROBE_FRAMES, len(packets.pts))
        probed = frames.peek(max(num_expected, 1))
        if not probed:
            raise VideoError(_why_no_frame(packets, frames.early_end, is_animated_webp(path)))
        picture = picture_of(probed[0], frames.stream.sample_aspect_ratio)
        index = index_from_packets(packets, fps_hint)
        damage = None
        is_odd = reason or frames.error or frames.num_refused or len(probed) < num_expected
        if is_odd or not _in_order(frames, probed, index, packets):
            if threads != 1:  # what is made up for lost data depends on the number of threads
                frames.close()
                frames = FrameStream(path, threads=1)
            index, damage = _count_frames(frames, packets, fps_hint)
            frames.close()
            frames = FrameStream(path, threads=threads)
        scan = VideoScan(index, picture, codec, format_names, stream_index=frames.stream.index, damage=damage)
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


def _count_frames(frames: FrameStream, packets: PacketTable, fps_hint: float) -> tuple[FrameIndex, Damage | None]:
    """Decode what is left of a video to know how many frames it has, when they are shown, and what is wrong."""
    found = survey(frames)
    if not len(found.pts):
        raise VideoError(_why_no_frame(packets, frames.early_end, False))
    error = found.early_end or packets.error or packets.why_cut(frames.container.format.name)
    if error:
        error = f"decoding stops after {len(found.pts)} frames: {error}"
    damage = found.damage()
    return index_from_frames(found.pts, found.dts, packets, fps_hint, error), damage if damage.is_any else None


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
    missing = corrupt = False
    encrypted_from = None
    error = None
    try:
        for packet in container.demux(stream):
            heartbeat.beat()
            if packet.size == 0:  # the end of the stream, or a dropped frame in AVI
                continue
            if packet.is_discard:
                discarded += 1
                continue
            if encrypted_from is None and is_encrypted(packet):
                encrypted_from = len(rows)
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
        encrypted_from=encrypted_from,
        is_corrupt=corrupt,
        error=error,
    )


def _why_no_frame(packets: PacketTable, decode_error: str | None, is_webp: bool) -> str:
    if is_webp:
        return "an animated WebP, which FFmpeg cannot decode; turn it into an mp4 or a folder of images"
    if not len(packets.pts):
        claimed = f" (its header claims {packets.num_header_frames} frames)" if packets.num_header_frames else ""
        return f"no frame: the file holds no video data{claimed}" + (f": {packets.error}" if packets.error else "")
    reason = decode_error or packets.error or "no picture came out"
    return f"none of its {len(packets.pts)} frames can be decoded: {reason}"
