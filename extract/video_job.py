"""One video's decoding for all crop sets at once: what is asked of a decoding worker, and what comes back.

No torch here: workers that only decode must start fast and stay small.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from extract.decode import DecodedFrames, VideoReader
from extract.frame_picking import pick_frames, predecessors
from pipeline.errors import VideoError
from pipeline.recipe.crops import CropPolicyBase
from pipeline.status import VideoStatus

NOT_DECODED = -1


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
class VideoJob:
    """What is wanted of one video."""

    row: int
    video_id: str
    path: str
    duration_s: float | None
    requests: tuple[CropRequest, ...]


@dataclass(frozen=True)
class PickedCrops:
    """Where the frames of a request's crops lie among the decoded ones."""

    request: CropRequest
    current: np.ndarray
    """(n, len(positions)) int64 into the decoded frames; NOT_DECODED where a frame is missing."""
    previous: np.ndarray | None

    def is_complete(self) -> np.ndarray:
        """(n,) bool: the crops whose frames are all there."""
        complete = (self.current != NOT_DECODED).all(axis=1)
        if self.previous is not None:
            complete &= (self.previous != NOT_DECODED).all(axis=1)
        return complete


@dataclass(frozen=True)
class VideoFrames:
    """The decoded frames of one video, or why there are none."""

    job: VideoJob
    frames: np.ndarray
    """(F, H, W, 3) uint8."""
    crops: tuple[PickedCrops, ...]
    error: str | None = None
    status: str = VideoStatus.OK
    """ok; partial when decoding broke off somewhere; unreadable or missing."""
    seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


def plan_reads(
    job: VideoJob, frame_times_s: np.ndarray
) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray | None]]]:
    """Return the union of the frames that all requests need, and each request's frames.

    Returns
    -------
    wanted : ndarray of shape (F,), int64
        Strictly ascending.
    picks : list of (current, previous)
        Frame numbers of the video, (n, len(positions)) each.
    """
    picks: list[tuple[np.ndarray, np.ndarray | None]] = []
    for request in job.requests:
        frames = pick_frames(request.geometry, request.policy, frame_times_s, job.duration_s)
        current = frames[:, list(request.positions)]
        picks.append((current, predecessors(current) if request.with_previous else None))
    parts = [part.reshape(-1) for pair in picks for part in pair if part is not None]
    wanted = np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64)
    return wanted, picks


def read_video(
    job: VideoJob,
    open_reader: Callable[[str], VideoReader],
    allocate: Callable[[tuple[int, ...]], np.ndarray] | None = None,
) -> VideoFrames:
    """Decode one video for all its requests in one pass. Bad videos come back with a status, never as an exception.

    Parameters
    ----------
    job : VideoJob
    open_reader : callable
        Gives the reader of a path.
    allocate : callable, optional
        Gives the uint8 array of a shape that frames are decoded into; None: new memory.
    """
    started = time.perf_counter()
    try:
        with open_reader(job.path) as reader:
            if reader.num_frames == 0:
                raise VideoError("no frame could be decoded")
            wanted, picks = plan_reads(job, reader.frame_times_s)
            out = None if allocate is None else allocate((len(wanted), reader.height, reader.width, 3))
            decoded = reader.read(wanted) if out is None else reader.read(wanted, out)
            versions = {"decoder": f"{reader.decoder_name} {reader.decoder_version}"}
    except VideoError as error:
        return failed_video(job, str(error), error.status, time.perf_counter() - started)
    if len(wanted) and not len(decoded.indices):
        return failed_video(
            job, decoded.error or "no frame could be decoded", VideoStatus.UNREADABLE, time.perf_counter() - started
        )
    crops = tuple(
        PickedCrops(request, _locate(current, decoded), None if previous is None else _locate(previous, decoded))
        for request, (current, previous) in zip(job.requests, picks, strict=True)
    )
    is_partial = decoded.error is not None or len(decoded.indices) < len(wanted)
    return VideoFrames(
        job=job,
        frames=decoded.frames,
        crops=crops,
        error=decoded.error or ("the decoder passed over some frames" if is_partial else None),
        status=VideoStatus.PARTIAL if is_partial else VideoStatus.OK,
        seconds=time.perf_counter() - started,
        versions=versions,
    )


def failed_video(job: VideoJob, error: str, status: str, seconds: float = 0.0) -> VideoFrames:
    """Return the outcome of a video of which there are no frames."""
    return VideoFrames(job, np.zeros((0, 0, 0, 3), np.uint8), (), error, status, seconds)


def _locate(frames: np.ndarray, decoded: DecodedFrames) -> np.ndarray:
    place = np.searchsorted(decoded.indices, frames)
    inside = np.minimum(place, max(len(decoded.indices) - 1, 0))
    found = decoded.indices[inside] == frames if len(decoded.indices) else np.zeros(frames.shape, bool)
    return np.where(found, inside, NOT_DECODED)
