"""When each frame of a video is shown: the index that crops are planned on.

Times come from demultiplexing (no pixels), frame by frame; headers are not
believed. Where a container's packets are not one frame each, or something
looks broken, the frames are counted by decoding instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_PARSED_FORMATS = frozenset(
    {"mpeg", "mpegts", "mpegvideo", "h264", "hevc", "vvc", "m4v", "h263", "obu", "dirac", "cavsvideo"}
)
"""Streams that FFmpeg cuts into packets itself: fields may come one by one, timestamps may be made up."""

_MAX_JOINTS_SHARE = 0.1
"""Of all steps between timestamps, those that may lead back for the rest to be believed."""

_LONE_FRAME_S = 0.04
"""How long a single frame is shown when nothing says so; a video of no length would be neither short nor long."""

_PACKED_CODECS = frozenset({"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"})
_PACKED_MAX_BYTES = 16
"""DivX-style packed B-frames leave dummy packets of a few bytes; some yield a frame, some do not."""


@dataclass(frozen=True)
class PacketTable:
    """What demultiplexing one video stream found; packets that are shown, in file order."""

    pts: np.ndarray
    """(n,) int64, in units of the time base; where the container has none, dts; where neither, -2**63."""
    durations: np.ndarray
    """(n,) int64, 0 where unknown."""
    keyframes: np.ndarray
    """(n,) bool: decoding may start here and gives exact frames from this one on."""
    time_base_s: float
    num_discarded: int = 0
    """Packets that an edit list hides."""
    num_tiny: int = 0
    num_header_frames: int = 0
    has_missing: bool = False
    encrypted_from: int | None = None
    """The first packet that says that it is encrypted."""
    is_corrupt: bool = False
    error: str | None = None
    """Why demultiplexing ended early."""

    def why_count_by_decoding(self, format_names: str, codec: str) -> str | None:
        """Say why packets cannot be taken for frames here; None when they can."""
        if self.error or self.is_corrupt:
            return "broken packets"
        if self.time_base_s <= 0:
            return "no time base"
        if self.has_missing or len(np.unique(self.pts)) < len(self.pts):
            return "missing or repeated timestamps"
        if codec in _PACKED_CODECS and self.num_tiny:
            return "packed frames"
        if _PARSED_FORMATS & set(format_names.split(",")):
            return "a raw or transport stream"
        if self.num_header_frames > len(self.pts) + self.num_discarded:
            return "fewer packets than the header says"
        return None

    def why_cut(self, format_names: str) -> str | None:
        """Say that a file was cut between two packets; None where nothing tells so.

        An MP4 lists every frame that it holds; other headers count frames that were never there.
        """
        found = len(self.pts) + self.num_discarded
        if "mp4" in format_names.split(",") and self.num_header_frames > found:
            return f"the file ends there, its header lists {self.num_header_frames} frames"
        return None


@dataclass(frozen=True)
class FrameIndex:
    """The decodable frames of a video, in the order they are shown."""

    times_s: np.ndarray
    """(num_frames,) float64 seconds, ascending; the first is 0."""
    duration_s: float
    """From the first frame to the end of the last one."""
    start_s: float = 0.0
    """The first frame's own timestamp in the container, which may be negative."""
    pts: np.ndarray | None = None
    """(num_frames,) int64: tells which frame was decoded after a seek; None where timestamps cannot be relied on."""
    keyframes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Frame numbers from which decoding can start."""
    counted_by: str = "demuxing"
    """demuxing, decoding or files."""
    error: str | None = None
    """Why nothing can be decoded after the last frame; None for a sound video."""

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self.times_s)


def index_from_packets(packets: PacketTable, fps_hint: float) -> FrameIndex:
    """Build the index when every packet is one frame and has its own timestamp.

    Parameters
    ----------
    packets : PacketTable
    fps_hint : float
        The header's frame rate, for the duration of a lone last frame; 0 if unknown.
    """
    order = np.argsort(packets.pts, kind="stable")
    pts = packets.pts[order]
    times_s, start_s = _relative_seconds(pts, packets.time_base_s)
    last_s = float(packets.durations[order][-1]) * packets.time_base_s if len(pts) else 0.0
    return FrameIndex(
        times_s=times_s,
        duration_s=_duration(times_s, last_s, fps_hint),
        start_s=start_s,
        pts=pts,
        keyframes=np.flatnonzero(packets.keyframes[order]),
        error=packets.error,
    )


def index_from_frames(
    frame_pts: np.ndarray, frame_dts: np.ndarray, packets: PacketTable, fps_hint: float, error: str | None
) -> FrameIndex:
    """Build the index after decoding every frame once.

    The frames' own timestamps are used where they ascend, then their decoding
    timestamps, then the frames' own with the few places closed where they jump
    back (recordings that were joined), then the packets' sorted ones, then the
    header's frame rate.

    Parameters
    ----------
    frame_pts, frame_dts : ndarray of shape (n,), int64
        In the order the decoder gave them; -2**63 where missing.
    packets : PacketTable
    fps_hint : float
        Frames per second of the header; 0 if unknown.
    error : str or None
        Why decoding ended early.
    """
    num_frames = len(frame_pts)
    shown = np.sort(packets.pts[packets.pts != MISSING])
    for candidate in (frame_pts, _fill_last(frame_dts), _joined(frame_pts), shown[:num_frames]):
        if (
            packets.time_base_s > 0
            and len(candidate) == num_frames
            and MISSING not in candidate
            and (np.diff(candidate) > 0).all()
        ):
            times_s, start_s = _relative_seconds(candidate, packets.time_base_s)
            break
    else:
        times_s, start_s = np.arange(num_frames) / (fps_hint or 25.0), 0.0
    return FrameIndex(
        times_s=times_s,
        duration_s=_duration(times_s, 0.0, fps_hint),
        start_s=start_s,
        counted_by="decoding",
        error=error,
    )


MISSING = np.iinfo(np.int64).min


_EVEN_WITHIN_S = 2e-3
"""Containers round timestamps (Matroska to 1 ms); frames this near to even spacing are evenly spaced."""

MAX_UNEVEN_FRAMES = 1 << 17
"""Frames of which single times are catalogued at most (more than an hour)."""


def uneven_steps_us(index: FrameIndex) -> tuple[int, ...] | None:
    """Return the microseconds from each frame to the next where frames are not evenly spaced; None where they are."""
    n = index.num_frames
    if not 1 < n <= MAX_UNEVEN_FRAMES or index.duration_s <= 0:
        return None
    even_s = np.arange(n) * (index.duration_s / n)
    if np.abs(index.times_s - even_s).max() <= _EVEN_WITHIN_S:
        return None
    steps = np.diff(np.rint(index.times_s * 1e6))
    return tuple(steps.astype(np.int64).tolist()) if steps.max() <= np.iinfo(np.int32).max else None


def sample_frame_indices(frame_times_s: np.ndarray, wanted_times_s: np.ndarray) -> np.ndarray:
    """Return the frame on screen at each time: the last one whose time is not later.

    Parameters
    ----------
    frame_times_s : ndarray of shape (num_frames,), float64
        Ascending, the first is 0.
    wanted_times_s : ndarray of any shape, float64
        Times before the first frame give frame 0, times after the end the last frame.

    Returns
    -------
    ndarray of the same shape, int64

    Examples
    --------
    >>> sample_frame_indices(np.array([0.0, 0.1, 0.5]), np.array([0.0, 0.1, 0.3, 9.0])).tolist()
    [0, 1, 1, 2]
    """
    # k/fps computed twice differs in the last bit; a microsecond is far below any frame's length
    found = np.searchsorted(frame_times_s, np.asarray(wanted_times_s) + 1e-6, side="right") - 1
    return np.clip(found, 0, max(len(frame_times_s) - 1, 0)).astype(np.int64)


def _relative_seconds(pts: np.ndarray, time_base_s: float) -> tuple[np.ndarray, float]:
    if not len(pts):
        return np.zeros(0), 0.0
    return (pts - pts[0]).astype(np.float64) * time_base_s, float(pts[0]) * time_base_s


def _fill_last(dts: np.ndarray) -> np.ndarray:
    """Extend decoding timestamps over the frames a decoder hands out at the end without one."""
    filled = dts.copy()
    for k in range(1, len(filled)):
        if filled[k] == MISSING and filled[k - 1] != MISSING:
            step = filled[k - 1] - filled[k - 2] if k > 1 else 1
            filled[k] = filled[k - 1] + max(int(step), 1)
    return filled


def _joined(pts: np.ndarray) -> np.ndarray:
    """Let timestamps go on where they jump back; as they are where that happens more often than joining explains."""
    steps = np.diff(pts)
    forward = steps[steps > 0]
    if MISSING in pts or not len(forward) or len(steps) - len(forward) > _MAX_JOINTS_SHARE * len(steps):
        return pts
    closed = np.where(steps > 0, steps, round(float(np.median(forward))))
    return np.concatenate([pts[:1], pts[0] + np.cumsum(closed)])


def _duration(times_s: np.ndarray, last_s: float, fps_hint: float) -> float:
    if not len(times_s):
        return 0.0
    if last_s <= 0 or last_s > 10 * max(float(times_s[-1]), 1.0):
        if len(times_s) > 1:
            last_s = float(np.median(np.diff(times_s)))
        else:
            last_s = 1.0 / fps_hint if fps_hint > 0 else _LONE_FRAME_S
    return float(times_s[-1]) + last_s
