"""From the store's raw geometry to the 7-vector that the model reads.

The store keeps seconds and source pixels; nothing is normalised until here.
SCALE (ICCV 2023, released code `normalize_pos_info`) reads, for every crop,
(flip, h0, w0, h1, w1, t0, t1), min-max normalised over the crops of its video.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from aggregate.data.arrays import Array, as_tensor
from pipeline.errors import ShapeMismatchError
from pipeline.storage.schema import GEOMETRY_COLUMNS

MODEL_COLUMNS = ("flip", "h0", "w0", "h1", "w1", "t0", "t1")
"""Columns of the 7-vector, in the order of the released code."""

GeometryParts = Literal["none", "time", "box", "all"]
GeometryFrame = Literal["per_video", "absolute"]

START_S, END_S, TOP_PX, LEFT_PX, BOTTOM_PX, RIGHT_PX, FLIP = (
    GEOMETRY_COLUMNS.index(name) for name in ("start_s", "end_s", "top_px", "left_px", "bottom_px", "right_px", "flip")
)
NUM_RAW_COLUMNS = len(GEOMETRY_COLUMNS)

_PARTS: dict[str, tuple[bool, ...]] = {
    "none": (False,) * 7,
    "time": (False, False, False, False, False, True, True),
    "box": (True, True, True, True, True, False, False),
    "all": (True,) * 7,
}


def visible_columns(parts: GeometryParts) -> Tensor:
    """Return which of the seven columns a geometry variant shows.

    Parameters
    ----------
    parts : {"none", "time", "box", "all"}
        `box` includes the flip: both say what of the frame is seen.

    Returns
    -------
    Tensor
        (7,) bool.
    """
    return torch.tensor(_PARTS[parts])


def derive_geometry(
    raw: Array,
    valid: Array,
    *,
    frame: GeometryFrame = "per_video",
    frame_size_px: Array | None = None,
) -> Tensor:
    """Turn raw geometry into the model's 7-vector.

    Normalisation is over *all* valid crops of a video, so call this before
    the crops are dealt into sets (as the released code does).

    Parameters
    ----------
    raw : Tensor or ndarray
        (..., V, 9) float; columns `pipeline.storage.schema.GEOMETRY_COLUMNS`: seconds and source pixels.
    valid : Tensor or ndarray
        (..., V) bool.
    frame : {"per_video", "absolute"}
        per_video: the first start of a video is 0, its last end 1, and the
        same for its boxes, as in SCALE. absolute: time in seconds, boxes as
        fractions of the frame.
    frame_size_px : Tensor or ndarray, optional
        (..., 2) height and width of the source frame after rotation, for `absolute`.
        Where it is absent (or zero) the largest bottom and right of the video's crops stand in.

    Returns
    -------
    Tensor
        (..., V, 7) float32: flip in {-1, +1}, h0, w0, h1, w1, t0, t1. Invalid crops are zeros.

    Raises
    ------
    ShapeMismatchError
        If `raw` does not have nine columns or `valid` does not fit it.
    """
    raw, valid = as_tensor("raw geometry", raw), as_tensor("valid", valid).bool()
    if raw.shape[-1:] != (NUM_RAW_COLUMNS,) or raw.shape[:-1] != valid.shape:
        raise ShapeMismatchError(
            f"expected raw geometry (..., V, {NUM_RAW_COLUMNS}) and valid (..., V), "
            f"found {tuple(raw.shape)} and {tuple(valid.shape)}"
        )
    # Differences of large pixel or second values keep their digits in float64.
    values = torch.where(valid[..., None], raw.double(), 0.0)
    flip = torch.where(values[..., FLIP] > 0, 1.0, -1.0)
    top, left, bottom, right = (values[..., c] for c in (TOP_PX, LEFT_PX, BOTTOM_PX, RIGHT_PX))
    start, end = values[..., START_S], values[..., END_S]
    if frame == "per_video":
        h0, h1 = _min_max(top, bottom, valid)
        w0, w1 = _min_max(left, right, valid)
        t0, t1 = _min_max(start, end, valid)
    else:
        size = None if frame_size_px is None else as_tensor("frame_size_px", frame_size_px)
        height, width = _frame_size(bottom, right, size)
        h0, h1, w0, w1 = top / height, bottom / height, left / width, right / width
        t0, t1 = start, end
    derived = torch.stack((flip, h0, w0, h1, w1, t0, t1), dim=-1)
    return torch.where(valid[..., None], derived, 0.0).float()


def _min_max(low: Tensor, high: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    smallest = low.masked_fill(~valid, torch.inf).amin(-1, keepdim=True)
    largest = high.masked_fill(~valid, -torch.inf).amax(-1, keepdim=True)
    span = largest - smallest
    # A video whose crops are all one instant (or that has none) has no extent: everything is at 0.
    usable = torch.isfinite(span) & (span > 0)
    span = torch.where(usable, span, 1.0)
    smallest = torch.where(torch.isfinite(smallest), smallest, 0.0)
    return (low - smallest) / span, torch.where(usable, (high - smallest) / span, 0.0)


def _frame_size(bottom: Tensor, right: Tensor, frame_size_px: Tensor | None) -> tuple[Tensor, Tensor]:
    seen = torch.stack((bottom.amax(-1), right.amax(-1)), dim=-1).clamp_min(1.0)
    size = seen if frame_size_px is None else torch.where(frame_size_px > 0, frame_size_px.double(), seen)
    return size[..., 0, None], size[..., 1, None]
