"""From the geometry of a crop to the frames it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.recipe.crops import CropPolicyBase

START_S, END_S, STRIDE, START_FRAME = 0, 1, 7, 8
_TOLERANCE_S = 2e-3
"""Containers round timestamps (Matroska to 1 ms), float32 geometry to less; a frame this little late is on screen."""


@dataclass(frozen=True, slots=True)
class RowPart:
    """The part of a file that is a row; the whole of it where nothing is said."""

    duration_s: float | None = None
    start_s: float = 0.0
    start_frame: int = 0
    num_frames: int | None = None
    fps: float | None = None
    """Of image folders, which have no times of their own."""

    @classmethod
    def of(cls, video: Mapping[str, Any]) -> RowPart:
        """Return the part that a catalogue row stands for."""
        fps = video.get("fps") if str(video.get("codec") or "").startswith("images/") else None
        if video.get("start_frame") is None:
            return cls(video.get("duration_s"), fps=fps)
        return cls(video["duration_s"], video["start_s"], video["start_frame"], video["num_frames"], fps)


def pick_row_frames(
    geometry: np.ndarray, policy: CropPolicyBase, frame_times_s: np.ndarray, part: RowPart
) -> np.ndarray:
    """Return which frames of a file the crops of a row show; none lies outside the row's part. See `pick_frames`."""
    if part.fps:
        frame_times_s = np.arange(len(frame_times_s)) / part.fps
    if part.num_frames is None:
        return pick_frames(geometry, policy, frame_times_s, part.duration_s)
    first = min(part.start_frame, len(frame_times_s) - 1)
    times_s = frame_times_s[first : first + max(part.num_frames, 1)]
    local = np.array(geometry, dtype=np.float64)
    local[:, [START_S, END_S]] -= part.start_s
    local[:, START_S] = np.maximum(local[:, START_S], 0.0)
    local[:, START_FRAME] -= part.start_frame
    return first + pick_frames(local, policy, times_s - times_s[0], part.duration_s)


def pick_frames(
    geometry: np.ndarray, policy: CropPolicyBase, frame_times_s: np.ndarray, duration_s: float | None = None
) -> np.ndarray:
    """Return which frames of a video its crops show.

    Frame k of a crop is the one on screen at ``start_s + k * |stride| /
    target_fps`` (or frame ``start_frame + k * |stride|`` when `target_fps` is
    None), in reverse order for a negative stride. Times past the end follow
    the policy's `short` rule: `repeat_last` holds the last frame, the others
    start again.

    Parameters
    ----------
    geometry : ndarray of shape (V, 9), float32
    policy : CropPolicy
    frame_times_s : ndarray of shape (F,), float64
        Ascending; the first is 0. F is at least 1.
    duration_s : float, optional
        To the end of the last frame; None: its predecessor's length is taken.

    Returns
    -------
    ndarray of shape (V, num_frames), int64
        In 0..F-1.
    """
    num_available = len(frame_times_s)
    assert num_available >= 1
    geometry = np.asarray(geometry, dtype=np.float64)
    stride = geometry[:, STRIDE]
    steps = np.arange(policy.num_frames)[None, :] * np.abs(stride)[:, None]
    if policy.target_fps is None:
        frames = np.floor(geometry[:, START_FRAME, None] + steps + 1e-6).astype(np.int64)
        frames = _wrap_frames(frames, num_available, policy.short)
    else:
        times = geometry[:, START_S, None] + steps / policy.target_fps
        frames = frames_on_screen(times, frame_times_s, _end_s(frame_times_s, duration_s), policy.short)
    backwards = stride < 0
    frames[backwards] = frames[backwards][:, ::-1]
    return frames


def predecessors(frames: np.ndarray, part: RowPart | None = None) -> np.ndarray:
    """Return the frame before each (a row's first stands for itself): what temporal streams compare with."""
    return np.maximum(frames - 1, 0 if part is None else part.start_frame)


def frames_on_screen(times: np.ndarray, frame_times_s: np.ndarray, end_s: float, short: str) -> np.ndarray:
    """Return the frame on screen at each time, int64; times past `end_s` follow the rule `short`."""
    intervals = np.diff(frame_times_s)
    tolerance_s = min(_TOLERANCE_S, float(np.median(intervals)) / 4) if len(intervals) else _TOLERANCE_S
    if short != "repeat_last" and end_s > 0:
        late = times >= end_s - tolerance_s
        times = np.where(late, np.mod(times + tolerance_s, end_s), times)
    found = np.searchsorted(frame_times_s, times + tolerance_s, side="right") - 1
    return np.clip(found, 0, len(frame_times_s) - 1).astype(np.int64)


def _wrap_frames(frames: np.ndarray, num_available: int, short: str) -> np.ndarray:
    if short == "repeat_last":
        return np.clip(frames, 0, num_available - 1)
    return np.mod(frames, num_available)


def _end_s(frame_times_s: np.ndarray, duration_s: float | None) -> float:
    if duration_s is not None and duration_s > frame_times_s[-1]:
        return float(duration_s)
    last_s = float(np.median(np.diff(frame_times_s))) if len(frame_times_s) > 1 else 0.0
    return float(frame_times_s[-1]) + last_s
