"""The clips of one video, decoded and downsized: what the cache of a pretraining holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from extract.crops.draw import draw_crops, facts_of
from extract.decoding.decode import VideoReader
from extract.decoding.frame_picking import RowPart
from extract.pixels.preprocess import cut_crop
from extract.places.elsewhere import Elsewhere, Place
from extract.run.video_job import NOT_DECODED, CropRequest, VideoFrames, VideoJob, read_video
from pipeline.recipe.crops import CropPolicyBase


@dataclass(frozen=True)
class VideoClips:
    """The clips of one video.

    Attributes
    ----------
    current : ndarray
        (W, T, S, S, 3) uint8.
    previous : ndarray or None
        The same clips one video frame earlier, for streams that compare the two.
    geometry : ndarray
        (W, 9) float32.
    valid : ndarray
        (W,) bool; False where nothing could be decoded.
    """

    current: np.ndarray
    previous: np.ndarray | None
    geometry: np.ndarray
    valid: np.ndarray

    @classmethod
    def empty(cls, policy: CropPolicyBase, with_previous: bool) -> VideoClips:
        """Return clips that show nothing."""
        size = policy.size_px
        shape = (policy.num_crops, policy.num_frames, size, size, 3)
        previous = np.zeros(shape, np.uint8) if with_previous else None
        num_crops = policy.num_crops
        return cls(np.zeros(shape, np.uint8), previous, np.zeros((num_crops, 9), np.float32), np.zeros(num_crops, bool))

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What there is of a video, by name."""
        found = {name: getattr(self, name) for name in ("current", "previous", "geometry", "valid")}
        return {name: array for name, array in found.items() if array is not None}


def decode_clips(
    video: Mapping[str, Any],
    place: Place,
    policy: CropPolicyBase,
    open_reader: Callable[[Elsewhere | str], VideoReader],
    *,
    with_previous: bool,
) -> VideoClips:
    """Decode every clip that a policy draws of a video.

    Parameters
    ----------
    video : mapping
        Its catalogue row.
    place : Path or Elsewhere
        Where it lies.
    policy : CropPolicyBase
        Its `size_px` is the side of the clips.
    open_reader : callable
    with_previous : bool
        Whether to keep the frame before each, too.

    Returns
    -------
    VideoClips
        A video that cannot be read has none that are valid; it is never an error.
    """
    clips = VideoClips.empty(policy, with_previous)
    facts = facts_of(video)
    drawn = draw_crops(policy, str(video["video_id"]), facts)
    clips.geometry[:] = drawn.geometry
    numbers = np.flatnonzero(drawn.valid)
    if not len(numbers):
        return clips
    frames = tuple(range(policy.num_frames))
    request = CropRequest("clips", policy, numbers, drawn.geometry[numbers], frames, with_previous)
    job = VideoJob(
        row=int(video["row"]),
        video_id=str(video["video_id"]),
        path=place if isinstance(place, Elsewhere) else str(place),
        part=RowPart() if facts is None else RowPart.of(video),
        requests=(request,),
        num_bytes=video.get("bytes"),
        sha256=video.get("sha256"),
        size=None if facts is None else (facts.width, facts.height),
    )
    read_video(job, open_reader, lambda part: _cut(part, policy.size_px, clips))
    return clips


def _cut(part: VideoFrames, size_px: int, clips: VideoClips) -> None:
    import torch

    frames = torch.from_numpy(part.frames)
    for picked in part.crops:
        for k, number in enumerate(picked.request.numbers.tolist()):
            wanted = [picked.current[k]] if picked.previous is None else [picked.current[k], picked.previous[k]]
            if any((one == NOT_DECODED).any() for one in wanted):
                continue
            cut = [cut_crop(frames, one, picked.request.geometry[k], size_px).numpy() for one in wanted]
            clips.current[number] = cut[0]
            if clips.previous is not None:
                clips.previous[number] = cut[1]
            clips.valid[number] = True
