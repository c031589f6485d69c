"""Rows that are a part of a file: how they are written, named, and cut out of the facts of the whole file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from extract.decoding.inspect import VideoInfo
from pipeline.errors import ManifestError

START, END = "start_s", "end_s"
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)\Z")
_PART = re.compile(r"#\d+\.\d{3}-(?:\d+\.\d{3})?\Z")
_INSIDE_WITHIN_S = 1e-3
"""A frame this little before a part's start belongs to it: annotations are rounded."""


def part_id(video_id: str, start_s: float, end_s: float | None) -> str:
    """Return the id of a part: that of its file and the times that were asked for, in milliseconds.

    Examples
    --------
    >>> part_id("P01/a.mp4", 0.9, 1.4)
    'P01/a.mp4#0.900-1.400'
    """
    return f"{video_id}#{start_s:.3f}-" + ("" if end_s is None else f"{end_s:.3f}")


def file_id(video_id: str) -> str:
    """Return the id of the file that a row is a part of; its own where it is a whole file."""
    return _PART.sub("", video_id)


def read_seconds(value: object, what: str) -> float | None:
    """Read a time as people write it: seconds, or ``HH:MM:SS.fff``; None where nothing stands.

    Raises
    ------
    ManifestError
        If it is neither.
    """
    text = str(value or "").strip()
    if not text:
        return None
    clock = _CLOCK.match(text)
    try:
        found = 3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]) if clock else float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found) or found < 0:
        raise ManifestError(f"{what}: expected seconds or HH:MM:SS, found {text!r}")
    return found


def bounds_of(row: Mapping[str, object], where: str) -> tuple[float | None, float | None]:
    """Return where a row of a table begins and ends; (None, None) for a whole file.

    Raises
    ------
    ManifestError
        If it ends before it begins.
    """
    start_s = read_seconds(row.get(START), f"{where}, column {START}")
    end_s = read_seconds(row.get(END), f"{where}, column {END}")
    if start_s is None and end_s is None:
        return None, None
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ManifestError(f"{where}: expected end_s after start_s, found {start_s or 0.0:g} to {end_s:g}")
    return start_s or 0.0, end_s


def facts_of_part(info: VideoInfo, start_s: float | None, end_s: float | None) -> dict[str, Any]:
    """Return the facts of a row as columns of the catalogue: those of its file, or of the part that it is.

    Parameters
    ----------
    info : VideoInfo
        Of the whole file.
    start_s, end_s : float or None
        As asked for. A part begins with the first frame that is shown from `start_s` on, and its times are those
        of frames.
    """
    facts: dict[str, Any] = {
        "bytes": info.num_bytes,
        "sha256": info.sha256,
        "duration_s": None if info.error else info.duration_s,
        "num_frames": None if info.error else info.num_frames,
        "fps": info.fps or None,
        "width": info.width or None,
        "height": info.height or None,
        "rotation_deg": None if info.error else info.rotation_deg,
        "codec": info.codec or None,
        "container_start_s": None if info.error else info.start_s,
        "frame_steps_us": info.frame_steps_us,
        "start_s": start_s,
        "end_s": end_s,
        "start_frame": None,
        "probe_error": info.error,
    }
    if start_s is None or info.error or not info.num_frames:
        return facts
    times_s: np.ndarray
    if info.frame_steps_us is not None:
        times_s = np.concatenate([[0], np.cumsum(info.frame_steps_us)]) / 1e6
    else:
        times_s = np.arange(info.num_frames) * (info.duration_s / info.num_frames)
    stop_s = info.duration_s if end_s is None else min(end_s, info.duration_s)
    first = int(np.searchsorted(times_s, start_s - _INSIDE_WITHIN_S))
    last = int(np.searchsorted(times_s, stop_s - _INSIDE_WITHIN_S))
    if last <= first:
        until = "its end" if end_s is None else f"{end_s:g} s"
        reason = f"no frame lies in the part from {start_s:g} s to {until}: the file has {info.duration_s:.3f} s"
        return facts | {"probe_error": reason}
    duration_s = stop_s - float(times_s[first])
    return facts | {
        "duration_s": duration_s,
        "num_frames": last - first,
        "fps": (last - first) / duration_s,
        "start_s": float(times_s[first]),
        "end_s": stop_s,
        "start_frame": first,
        "frame_steps_us": None if info.frame_steps_us is None else info.frame_steps_us[first : last - 1],
    }
