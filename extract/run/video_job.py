"""One video's decoding for all crop sets at once: what is asked of a decoding worker, and what comes back.

No torch here: workers that only decode must start fast and stay small.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from extract.decoding.decode import DecodedFrames, VideoReader
from extract.decoding.frame_picking import RowPart, pick_row_frames, predecessors
from extract.decoding.inspect import hash_file
from extract.decoding.sound import HeardCrops
from extract.places.elsewhere import Elsewhere
from extract.sound.spectrogram import SoundSpec
from pipeline.errors import VideoError
from pipeline.recipe.crops import CropPolicyBase
from pipeline.status import VideoStatus

NOT_DECODED = -1

DEFAULT_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class CropRequest:
    """Crops of one crop set that are wanted of a video."""

    crops: str
    policy: CropPolicyBase
    numbers: np.ndarray
    """(n,) int64: which crops of the set."""
    geometry: np.ndarray
    """(n, 9) float32."""
    positions: tuple[int, ...]
    """Which of a crop's frames any backbone sees."""
    with_previous: bool = False
    """Whether the frame before each is needed too."""


@dataclass(frozen=True)
class SoundRequest:
    """Crops of one crop set whose sound is wanted of a video."""

    crops: str
    sound: SoundSpec
    numbers: np.ndarray
    """(n,) int64: which crops of the set."""
    spans_s: np.ndarray
    """(n, 2) float64: start and end."""
    is_reversed: np.ndarray
    """(n,) bool: played backwards."""


@dataclass(frozen=True)
class VideoJob:
    """What is wanted of one video."""

    row: int
    video_id: str
    path: Elsewhere | str
    part: RowPart
    requests: tuple[CropRequest, ...]
    num_bytes: int | None = None
    """Of the file, as catalogued."""
    size: tuple[int, int] | None = None
    """Width and height as catalogued: boxes of crops lie within."""
    sha256: str | None = None
    """Of the file, as catalogued."""
    looked_at: float = math.inf
    """When that was, in seconds since the epoch; a file that was touched since is held to its hash."""
    sounds: tuple[SoundRequest, ...] = ()


@dataclass(frozen=True)
class PickedCrops:
    """Where the frames of a request's crops lie among the decoded ones."""

    request: CropRequest
    current: np.ndarray
    """(n, len(positions)) int64 into the decoded frames; NOT_DECODED where a frame is missing."""
    previous: np.ndarray | None


@dataclass(frozen=True)
class VideoFrames:
    """The decoded frames of one video, or why there are none."""

    job: VideoJob
    frames: np.ndarray
    """(F, H, W, 3) uint8."""
    crops: tuple[PickedCrops, ...]
    error: str | None = None
    status: str = VideoStatus.OK
    """ok; partial when decoding broke off somewhere; damaged when frames are not as filmed; unreadable or missing."""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    times_s: np.ndarray | None = None
    """(F,) float64: when each frame is shown."""
    untrue: np.ndarray | None = None
    """(F,) bool: frames that the decoder flagged as damaged; None where it flagged none."""
    heard: tuple[tuple[SoundRequest, HeardCrops], ...] = ()
    sound_error: str | None = None
    """Why crops, or all of them, have no sound; None where all have."""


Picks = tuple[np.ndarray, np.ndarray | None]
"""Frame numbers that the crops of a request show, and the ones before them."""


def plan_reads(job: VideoJob, frame_times_s: np.ndarray) -> tuple[np.ndarray, list[Picks]]:
    """Return the union of the frames that all requests need, and each request's frames.

    Returns
    -------
    wanted : ndarray of shape (F,), int64
        Strictly ascending.
    picks : list of (current, previous)
        Frame numbers of the video, (n, len(positions)) each.
    """
    picks: list[Picks] = []
    for request in job.requests:
        frames = pick_row_frames(request.geometry, request.policy, frame_times_s, job.part)
        current = frames[:, list(request.positions)]
        picks.append((current, predecessors(current, job.part) if request.with_previous else None))
    parts = [part.reshape(-1) for pair in picks for part in pair if part is not None]
    wanted = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
    return wanted, picks


def read_video(
    job: VideoJob,
    open_reader: Callable[[Elsewhere | str], VideoReader],
    deliver: Callable[[VideoFrames], None],
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> VideoFrames:
    """Decode one video for all its requests.

    One pass over the union of the frames that all crops need. Where that
    union is larger than `max_bytes` (long crops of large frames), crops are
    read in several groups, in the order of their starts.

    Parameters
    ----------
    job : VideoJob
    open_reader : callable
        Gives the reader of a place.
    deliver : callable
        Takes the decoded frames, group by group; may wait for memory.
    max_bytes : int
        Frames in one group at most, unless a single crop needs more.

    Returns
    -------
    VideoFrames
        The outcome for the video as a whole, without frames. Bad videos come back with a status, never as an exception.
    """
    started = time.perf_counter()
    waited_s = 0.0
    num_wanted, num_found, error, damage = 0, 0, None, None
    sound_error: str | None = None
    versions: dict[str, str] = {}
    try:
        with open_reader(job.path) as reader:
            if reader.num_frames == 0:
                raise VideoError("no frame could be decoded")
            check_unchanged(job, reader)
            versions["decoder"] = f"{reader.decoder_name} {reader.decoder_version}"
            frame_bytes = reader.height * reader.width * 3
            groups = _groups(job, reader.frame_times_s, max(1, max_bytes // max(frame_bytes, 1)))
            for group in groups if job.requests else ():
                wanted, picks = plan_reads(group, reader.frame_times_s)
                begun = time.perf_counter()
                decoded = reader.read(wanted)
                num_wanted, num_found = num_wanted + len(wanted), num_found + len(decoded.indices)
                error, damage = error or decoded.error, decoded.damage or damage
                seconds = time.perf_counter() - begun
                part = locate_crops(group, picks, decoded, seconds, reader.frame_times_s[decoded.indices])
                begun = time.perf_counter()
                deliver(part)
                waited_s += time.perf_counter() - begun
            sounds = listen(job, reader)
            if sounds is not None:
                deliver(sounds)
                sound_error = sounds.sound_error
    except VideoError as failed:
        if not num_found or failed.status == VideoStatus.INTERRUPTED:
            return failed_video(job, str(failed), failed.status, time.perf_counter() - started - waited_s)
        error = error or str(failed)
    seconds = time.perf_counter() - started - waited_s
    return outcome_of(job, num_wanted, num_found, error, damage, seconds, versions, sound_error)


def outcome_of(
    job: VideoJob,
    num_wanted: int,
    num_found: int,
    error: str | None,
    damage: str | None,
    seconds: float,
    versions: dict[str, str],
    sound_error: str | None = None,
) -> VideoFrames:
    """Return what became of a video that was read: its status, and why, without frames."""
    if num_wanted and not num_found:
        return failed_video(job, error or "no frame could be decoded", VideoStatus.UNREADABLE, seconds)
    if error is None and num_found < num_wanted:
        error = f"the decoder passed over {num_wanted - num_found} frames"
    status = VideoStatus.OK if error is None else VideoStatus.PARTIAL
    if damage is not None:
        status, error = VideoStatus.DAMAGED, damage if error is None else f"{damage}; {error}"
    return VideoFrames(
        job, np.zeros((0, 0, 0, 3), np.uint8), (), error, status, seconds, versions, sound_error=sound_error
    )


def listen(job: VideoJob, reader: VideoReader) -> VideoFrames | None:
    """Return what is heard of a video, without frames; None where no network listens."""
    if not job.sounds:
        return None
    heard = tuple((request, _heard(reader, request)) for request in job.sounds)
    error = next((one.error for _, one in heard if one.error), None)
    return VideoFrames(job, np.zeros((0, 0, 0, 3), np.uint8), (), heard=heard, sound_error=error)


def _heard(reader: VideoReader, request: SoundRequest) -> HeardCrops:
    heard = reader.read_sound(request.spans_s, request.sound)
    heard.spectrograms[request.is_reversed] = heard.spectrograms[request.is_reversed, :, ::-1]
    return heard


def check_unchanged(job: VideoJob, reader: VideoReader) -> None:
    """Refuse a file that is another one than the catalogue describes: its crops were drawn for that one."""
    if job.num_bytes is not None and isinstance(job.path, str) and os.path.isfile(job.path):
        num_bytes = os.path.getsize(job.path)
        if num_bytes != job.num_bytes:
            raise VideoError(
                f"changed since it was catalogued: expected {job.num_bytes} bytes, found {num_bytes}; "
                "run `scale catalog` again, or give a changed video a new path"
            )
    if job.size is not None and job.size != (reader.width, reader.height):
        raise VideoError(
            f"changed since it was catalogued: expected frames of {job.size[0]}x{job.size[1]} px, "
            f"found {reader.width}x{reader.height}; run `scale catalog` again, or give a changed video a new path"
        )
    if job.sha256 is not None and isinstance(job.path, str) and os.path.isfile(job.path):
        found = os.stat(job.path)
        if max(found.st_ctime, found.st_mtime) >= job.looked_at and hash_file(Path(job.path)) != job.sha256:
            raise VideoError(
                f"changed since it was catalogued: expected the bytes with sha256 {job.sha256[:16]}..., found others; "
                "run `scale catalog` again, or give a changed video a new path"
            )


def locate_crops(
    job: VideoJob, picks: list[Picks], decoded: DecodedFrames, seconds: float, times_s: np.ndarray
) -> VideoFrames:
    """Return decoded frames with the places of a job's crops among them; untrue frames count as not there."""
    crops = []
    for request, (current, previous) in zip(job.requests, picks, strict=True):
        usable = None if request.policy.damaged == "keep" or decoded.untrue is None else ~decoded.untrue
        before = None if previous is None else _locate(previous, decoded, usable)
        crops.append(PickedCrops(request, _locate(current, decoded, usable), before))
    return VideoFrames(
        job=job, frames=decoded.frames, crops=tuple(crops), error=decoded.error, seconds=seconds,
        times_s=times_s, untrue=decoded.untrue,
    )  # fmt: skip


def _groups(job: VideoJob, frame_times_s: np.ndarray, max_frames: int) -> Iterator[VideoJob]:
    """Split a job so that no group needs more than `max_frames` frames, unless one crop alone does."""
    wanted, picks = plan_reads(job, frame_times_s)
    if len(wanted) <= max_frames:
        yield job
        return
    crops = [
        (int(current[k].min()), r, k, frames_of(current[k], None if previous is None else previous[k]))
        for r, (current, previous) in enumerate(picks)
        for k in range(len(current))
    ]
    group: list[tuple[int, int]] = []
    union: set[int] = set()
    for _, r, k, frames in sorted(crops, key=lambda crop: crop[:3]):
        if group and len(union | frames) > max_frames:
            yield _subset(job, group)
            group, union = [], set()
        group.append((r, k))
        union |= frames
    yield _subset(job, group)


def frames_of(current: np.ndarray, previous: np.ndarray | None) -> set[int]:
    """Return the frames of one crop as a set."""
    return set(current.tolist()) | (set() if previous is None else set(previous.tolist()))


def _subset(job: VideoJob, group: list[tuple[int, int]]) -> VideoJob:
    requests = []
    for r, request in enumerate(job.requests):
        kept = np.array([k for i, k in group if i == r], dtype=np.int64)
        if len(kept):
            requests.append(replace(request, numbers=request.numbers[kept], geometry=request.geometry[kept]))
    return replace(job, requests=tuple(requests))


def failed_video(job: VideoJob, error: str, status: str, seconds: float = 0.0) -> VideoFrames:
    """Return the outcome of a video of which there are no frames."""
    return VideoFrames(job, np.zeros((0, 0, 0, 3), np.uint8), (), error, status, seconds)


def _locate(frames: np.ndarray, decoded: DecodedFrames, usable: np.ndarray | None) -> np.ndarray:
    """Return where frames lie among the decoded ones; NOT_DECODED where one is not there or not usable."""
    if not len(decoded.indices):
        return np.full(frames.shape, NOT_DECODED)
    inside = np.minimum(np.searchsorted(decoded.indices, frames), len(decoded.indices) - 1)
    found = decoded.indices[inside] == frames
    if usable is not None:
        found &= usable[inside]
    return np.where(found, inside, NOT_DECODED)
