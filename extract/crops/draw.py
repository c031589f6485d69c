"""From a crop policy and the facts of a video to boxes in space and time.

Pure NumPy: no pixels, no clock, no global random state. The same (policy,
video id, facts) give the same bytes whatever the order, worker or resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies import draw_draft
from extract.crops.policies.base import CropDraft, VideoFacts, crop_span_s
from extract.decoding.frame_picking import frames_on_screen
from pipeline.recipe import CropPolicy
from pipeline.recipe.crops import CropPolicyBase

NUM_COLUMNS = 9
"""start_s, end_s, top_px, left_px, bottom_px, right_px, flip, stride, start_frame."""


@dataclass(frozen=True)
class VideoCrops:
    """The crops of one video.

    Attributes
    ----------
    geometry : ndarray of shape (V, 9), float32
        Columns of :data:`pipeline.storage.schema.GEOMETRY_COLUMNS`: times in seconds
        after the first frame, whole source pixels (after rotation), flip 0 or
        1, signed stride in steps of 1/target_fps (or of frames), first frame.
        Zeros where nothing is planned.
    valid : ndarray of shape (V,), bool
        Which crops are planned. False for the unused slots of `dense` and for
        all crops of a short video under the rule `reject`.
    is_short : bool
        Whether the video is shorter than one crop.
    """

    geometry: np.ndarray
    valid: np.ndarray
    is_short: bool


def facts_of(video: Mapping[str, Any]) -> VideoFacts | None:
    """Return the facts of a catalogue row that crops depend on; None if the video was unreadable."""
    numbers = [video.get(k) for k in ("duration_s", "num_frames", "fps", "width", "height")]
    if video.get("probe_error") is not None or any(not n or not np.isfinite(n) or n <= 0 for n in numbers):
        return None
    duration_s, num_frames, fps, width, height = numbers
    times_s = _frame_times_s(video.get("frame_steps_us"), int(num_frames))  # type: ignore[arg-type]
    return VideoFacts(
        float(duration_s),  # type: ignore[arg-type]
        int(num_frames),  # type: ignore[arg-type]
        float(fps),  # type: ignore[arg-type]
        int(width),  # type: ignore[arg-type]
        int(height),  # type: ignore[arg-type]
        times_s,
        float(video.get("start_s") or 0.0),
        int(video.get("start_frame") or 0),
    )


def _frame_times_s(steps_us: Sequence[int] | None, num_frames: int) -> np.ndarray | None:
    if steps_us is None or len(steps_us) != num_frames - 1:
        return None
    return np.concatenate([[0], np.cumsum(np.asarray(steps_us, np.int64))]) / 1e6


def draw_crops(policy: CropPolicy, video_id: str, facts: VideoFacts | None) -> VideoCrops:
    """Draw the crops of one video.

    Parameters
    ----------
    policy : CropPolicy
    video_id : str
        Random policies differ between videos by it.
    facts : VideoFacts or None
        From the catalogue; None (nothing known of the video) gives no crops.

    Returns
    -------
    VideoCrops
        Always `policy.num_crops` rows.
    """
    num_crops = policy.num_crops
    if facts is None:
        return VideoCrops(np.zeros((num_crops, NUM_COLUMNS), np.float32), np.zeros(num_crops, bool), False)
    draft = draw_draft(policy, facts, policy_draws(policy, video_id))
    is_short = is_too_short(policy, facts)
    geometry = _as_geometry(draft, policy, facts)
    planned = draft.planned & (not (is_short and policy.short == "reject"))
    geometry[~draft.planned] = 0.0
    return VideoCrops(geometry, planned, is_short)


def policy_draws(policy: CropPolicyBase, video_id: str, purpose: str = "geometry") -> Draws:
    """Return the random numbers of a policy for a video; each purpose has its own stream."""
    content = policy.model_dump(mode="json", exclude_defaults=True, exclude={"seed", "short", "damaged"})
    return Draws(purpose, policy.seed, video_id, content)


def is_too_short(policy: CropPolicyBase, facts: VideoFacts) -> bool:
    """Whether a video is shorter than one crop of the policy."""
    if policy.follows_duration:
        return facts.num_frames < policy.num_frames
    if policy.target_fps is None:
        return facts.num_frames < policy.longest_stride * (policy.num_frames - 1) + 1
    span_s = crop_span_s(policy, policy.longest_stride)
    tolerance_s = 0.5 / policy.target_fps  # rounded timestamps are no lack of frames
    return facts.duration_s < span_s - tolerance_s


def _as_geometry(draft: CropDraft, policy: CropPolicyBase, facts: VideoFacts) -> np.ndarray:
    geometry = np.zeros((policy.num_crops, NUM_COLUMNS), np.float32)
    geometry[:, 0] = draft.start_s
    geometry[:, 1] = draft.end_s
    geometry[:, 2:6] = draft.boxes_px
    geometry[:, 6] = draft.flip
    geometry[:, 7] = draft.stride
    geometry[:, 8] = np.clip(np.floor(draft.start_s * facts.fps + 1e-3), 0, facts.num_frames - 1)
    if draft.start_frame is not None:
        geometry[:, 8] = draft.start_frame
    if facts.frame_times_s is not None or facts.is_part:
        _follow_frames(geometry, draft, policy, facts)
    return geometry


def _follow_frames(geometry: np.ndarray, draft: CropDraft, policy: CropPolicyBase, facts: VideoFacts) -> None:
    """Make times and frames those of the frames shown, where frames are not evenly spaced, and those of the whole file.

    What a policy chose stays (a time, or a frame where it counts frames); the other follows from it.
    """
    times_s = facts.frame_times_s
    if times_s is None:
        times_s = np.arange(facts.num_frames) / facts.fps
    if draft.start_frame is None:
        geometry[:, 0] = draft.start_s + facts.start_s
        geometry[:, 1] = draft.end_s + facts.start_s
        starts = np.maximum(geometry[:, 0].astype(np.float64) - facts.start_s, 0.0)
        geometry[:, 8] = facts.start_frame + frames_on_screen(starts, times_s, facts.duration_s, policy.short)
        return
    first = draft.start_frame.astype(np.int64)
    last = first + np.rint((draft.end_s - draft.start_s) * facts.fps).astype(np.int64)
    beyond_s = np.maximum(last - facts.num_frames, 0) / facts.fps  # of a video shorter than a crop, which goes on
    ends = np.append(times_s, facts.duration_s)
    geometry[:, 0] = facts.start_s + times_s[first]
    geometry[:, 1] = facts.start_s + ends[np.minimum(last, facts.num_frames)] + beyond_s
    geometry[:, 8] = facts.start_frame + first
