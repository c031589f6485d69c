"""Streams: what a network sees of a crop. All over identical boxes and times."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import MissingDependencyError
from pipeline.recipe import Stream

if TYPE_CHECKING:
    import torch

FLOW_BOUND_PX = 20.0
"""Flow is clipped to +-20 pixels, as in ViCC and CoCLR."""


GREY = 127
"""What stands where nothing moves."""
SMOOTHED_SHARE = 16
"""Differences are averaged over squares of about this part of a crop's side."""


def needs_previous(stream: Stream) -> bool:
    """Whether a stream compares each frame with the one before it."""
    return stream in ("tgrad", "flow", "flow_turned", "foreground")


def apply_stream(stream: Stream, current: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    """Return what a network sees in a stream.

    Parameters
    ----------
    stream : {"rgb", "tgrad", "flow", "flow_turned", "foreground", "audio"}
        tgrad: the temporal gradient ``(I[t-1] - I[t] + 255) / 2`` (LTG, arXiv 2111.13241), t-1 being the video's
        frame before. flow: OpenCV's DIS optical flow from t-1 to t in pixels of the crop; channels x, y and
        magnitude, clipped to +-20 px and scaled to 0..255. flow_turned: the same, every vector turned by half a turn:
        what moves keeps shape and speed and goes the other way (negatives, after MSCL, ECCV 2022). foreground: the
        half of the picture in which most differs from the frames before, summed over the crop as FAME (CVPR 2022)
        does; grey elsewhere. audio: what is heard, as it is.
    current, previous : Tensor of shape (B, T, S, S, 3), uint8
        Cut and augmented alike. `previous` may be None for rgb.

    Returns
    -------
    Tensor of shape (B, T, S, S, 3)
        0..255: uint8 for rgb and foreground, float32 for the others.

    Raises
    ------
    MissingDependencyError
        For flow without OpenCV.
    """
    if stream in ("rgb", "audio"):
        return current
    assert previous is not None
    if stream == "tgrad":
        return (previous.float() - current.float()).add_(255.0).mul_(0.5)
    if stream == "foreground":
        return _foreground(previous, current)
    flow = _flow(previous, current)
    return turned(flow) if stream == "flow_turned" else flow


def turned(flow: torch.Tensor) -> torch.Tensor:
    """Return optical flow with every vector turned by half a turn."""
    other_way = flow.clone()
    other_way[..., :2] = 255.0 - flow[..., :2]
    return other_way


def _foreground(previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    import torch

    change = (current.float() - previous.float()).abs().sum(dim=4).mean(dim=1, keepdim=True)
    side = change.shape[-1] // SMOOTHED_SHARE // 2 * 2 + 1
    smooth = torch.nn.functional.avg_pool2d(change, side, stride=1, padding=side // 2, count_include_pad=False)
    median = smooth.flatten(1).median(dim=1).values
    moves = smooth[:, 0] > median[:, None, None]
    return torch.where(moves[:, None, :, :, None], current, torch.full_like(current[:1, :1, :1, :1], GREY))


def check_stream(stream: Stream) -> None:
    """Raise :class:`MissingDependencyError` if a stream cannot be made here."""
    if stream in ("flow", "flow_turned"):
        _import_cv2()


def _import_cv2():  # type: ignore[no-untyped-def]
    try:
        import cv2
    except ImportError as err:
        raise MissingDependencyError(
            "expected OpenCV for the stream `flow`, found none; pip install 'scale-pipeline[flow]'"
        ) from err
    return cv2


def _grey_levels(clips: torch.Tensor) -> torch.Tensor:
    """Return uint8: what augmentation leaves is float32, which OpenCV's flow refuses."""
    import torch

    return clips if clips.dtype == torch.uint8 else clips.round().clamp(0, 255).to(torch.uint8)


def _flow(previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
    import torch

    cv2 = _import_cv2()
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    shape = current.shape
    before, after = (_grey_levels(x).reshape(-1, *shape[2:]).cpu().numpy() for x in (previous, current))
    out = np.empty(after.shape, np.float32)
    for k in range(len(after)):
        a, b = (cv2.cvtColor(np.ascontiguousarray(x[k]), cv2.COLOR_RGB2GRAY) for x in (before, after))
        out[k, ..., :2] = engine.calc(a, b, None)
    out[..., 2] = np.hypot(out[..., 0], out[..., 1])
    np.clip(out, -FLOW_BOUND_PX, FLOW_BOUND_PX, out=out)
    out[..., :2] = (out[..., :2] + FLOW_BOUND_PX) * (255.0 / (2 * FLOW_BOUND_PX))
    out[..., 2] *= 255.0 / FLOW_BOUND_PX
    return torch.from_numpy(out).reshape(shape).to(current.device)
