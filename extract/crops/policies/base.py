"""What all crop policies share: the facts of a video, the draft of its crops, and how long a crop lasts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from extract.crops.draws import Draws
from pipeline.errors import InvalidInputError
from pipeline.recipe.crops import CropPolicyBase


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What crops may depend on: the catalogue's numbers, never the decoder's of the day."""

    duration_s: float
    """From the first frame to the end of the last."""
    num_frames: int
    fps: float
    """Mean frames per second."""
    width: int
    """Pixels, after rotation."""
    height: int
    frame_times_s: np.ndarray | None = None
    """(num_frames,) when each frame is shown, where they are not evenly spaced."""
    start_s: float = 0.0
    """Where the row begins in its file; all else counts from there."""
    start_frame: int = 0

    @property
    def is_part(self) -> bool:
        """Whether the row begins after its file does."""
        return bool(self.start_s or self.start_frame)


@dataclass(slots=True)
class CropDraft:
    """Crops in float64, V of them, before they become geometry."""

    start_s: np.ndarray
    end_s: np.ndarray
    boxes_px: np.ndarray
    """(V, 4): top, left, bottom, right; whole source pixels."""
    flip: np.ndarray
    """(V,) bool."""
    stride: np.ndarray
    """(V,) signed steps of 1/target_fps, or of frames when target_fps is None."""
    planned: np.ndarray
    """(V,) bool; False for slots that stay empty."""
    start_frame: np.ndarray | None = None
    """(V,) whole numbers, when the policy counts frames (target_fps None)."""


@singledispatch
def draw_draft(policy: CropPolicyBase, facts: VideoFacts, draws: Draws) -> CropDraft:
    """Draw the crops of one video; a policy registers how with ``@draw_draft.register``.

    Parameters
    ----------
    policy : CropPolicyBase
    facts : VideoFacts
    draws : Draws
        The only source of chance: the same video gets the same crops wherever and whenever.

    Raises
    ------
    InvalidInputError
        If nobody registered how to draw crops of this policy.
    """
    raise InvalidInputError(
        f"expected code that draws crops of {type(policy).__name__}, found none; register a function with "
        "extract.crops.policies.draw_draft.register, in the module that holds the class"
    )


def crop_span_s(policy: CropPolicyBase, stride: int | None = None) -> float:
    """Return how long a crop lasts: from its first frame to the end of the last step, in seconds.

    ``(num_frames - 1) * stride + 1`` steps of ``1 / target_fps``. A crop
    needs no more of a video than that.
    """
    assert policy.target_fps is not None
    return ((policy.num_frames - 1) * abs(policy.stride if stride is None else stride) + 1) / policy.target_fps


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """Where crops of one length can start in a video, in seconds or in whole frames."""

    max_start: float
    """Latest start; 0 when the video is not longer than a crop."""
    span: float
    counts_frames: bool
    fps: float

    def draft_times(self, starts: np.ndarray) -> dict[str, Any]:
        """Return start_s, end_s and start_frame for starts on this axis."""
        if not self.counts_frames:
            return {"start_s": starts, "end_s": starts + self.span, "start_frame": None}
        frames = np.minimum(np.floor(starts + 1e-9), self.max_start)
        return {"start_s": frames / self.fps, "end_s": (frames + self.span) / self.fps, "start_frame": frames}

    @property
    def draw_limit(self) -> float:
        """Upper end (excluded) of a uniform draw of starts, so that every whole frame is as likely as another."""
        return self.max_start + 1 if self.counts_frames else self.max_start


def time_axis(policy: CropPolicyBase, facts: VideoFacts, stride: int | None = None) -> TimeAxis:
    """Return where crops of a policy (at a stride, default the policy's) can start."""
    stride = abs(policy.stride if stride is None else stride)
    if policy.target_fps is None:
        span = (policy.num_frames - 1) * stride + 1
        return TimeAxis(max(facts.num_frames - span, 0), span, True, facts.fps)
    span_s = crop_span_s(policy, stride)
    return TimeAxis(max(facts.duration_s - span_s, 0.0), span_s, False, facts.fps)
