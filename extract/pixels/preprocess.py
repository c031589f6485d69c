"""From decoded frames to what a network takes: cut, resize, flip, augment, normalise. On the device."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.pixels.colour import ColourDraw, augment_colours

if TYPE_CHECKING:
    import torch

RESIZE = "antialiased bilinear, whole grey levels"
"""Pixels of the box are resampled straight to the crop's size, once, and rounded to 0..255. A CPU computes in fixed
point, a GPU in float32: they agree to one grey level."""

PREPROCESSING_VERSION = 1
"""Raised when the code below changes pixels; part of the fingerprint."""

TOP_PX, LEFT_PX, BOTTOM_PX, RIGHT_PX, FLIP = 2, 3, 4, 5, 6


def cut_crop(
    frames: torch.Tensor, picks: np.ndarray, geometry: np.ndarray, size_px: int, colour: ColourDraw | None = None
) -> torch.Tensor:
    """Cut one crop out of a video's frames.

    Parameters
    ----------
    frames : Tensor of shape (F, H, W, 3), uint8
        Decoded frames, on the device.
    picks : ndarray of shape (T,), int64
        Which of them the crop shows.
    geometry : ndarray of shape (9,), float32
    size_px : int
        Side of the result.
    colour : ColourDraw, optional

    Returns
    -------
    Tensor of shape (T, size_px, size_px, 3), uint8
        Contiguous, on the device of `frames`.
    """
    import torch
    from torch.nn import functional

    top, left, bottom, right = (int(geometry[k]) for k in (TOP_PX, LEFT_PX, BOTTOM_PX, RIGHT_PX))
    unique, inverse = np.unique(picks, return_inverse=True)  # short videos show frames twice; resize them once
    clip = _select(frames[:, top:bottom, left:right], unique).permute(0, 3, 1, 2)
    if clip.shape[-2:] != (size_px, size_px):
        wide = clip if clip.device.type == "cpu" else clip.float()
        wide = functional.interpolate(wide, size=(size_px, size_px), mode="bilinear", antialias=True)
        clip = wide if wide.dtype == torch.uint8 else wide.round_().clamp_(0, 255).to(torch.uint8)
    if len(unique) != len(picks) or (np.diff(picks) < 0).any():
        clip = _select(clip, inverse)
    if geometry[FLIP] > 0.5:
        clip = clip.flip(-1)
    if colour is not None:
        clip = augment_colours(clip, colour)
    return clip.permute(0, 2, 3, 1).contiguous()


def _select(frames: torch.Tensor, picks: np.ndarray) -> torch.Tensor:
    """Return some frames, (len(picks), ...).

    Without a vector of indices: a CPU is four times as long over one, and sending one to a GPU makes the host wait
    for all that the device has been given before. On a CPU they are copied, since resizing wants them side by side.
    """
    import torch

    if frames.device.type == "cpu":
        return torch.stack([frames[k] for k in picks.tolist()])
    return _slice(frames, picks)


def _slice(frames: torch.Tensor, picks: np.ndarray) -> torch.Tensor:
    import torch

    steps = np.diff(picks)
    if len(picks) == 1 or (steps[0] > 0 and (steps == steps[0]).all()):
        return frames[int(picks[0]) : int(picks[-1]) + 1 : int(steps[0]) if len(steps) else 1]
    return torch.stack([frames[k] for k in picks.tolist()])


@lru_cache(maxsize=64)
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], times: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the constants of :func:`normalise`, so many times one after the other.

    They are kept, because sending them to a GPU makes the host wait for it.
    """
    import torch

    spread = torch.tensor(std, dtype=torch.float32)
    scale, shift = 1.0 / (255.0 * spread), -torch.tensor(mean, dtype=torch.float32) / spread
    return scale.repeat(times).to(device), shift.repeat(times).to(device)


def normalise(
    clips: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], *, channels_last: bool = True
) -> torch.Tensor:
    """Scale grey levels to a network's mean and standard deviation.

    Parameters
    ----------
    clips : Tensor of shape (B, T, S, S, 3), uint8 or float32
        0..255.
    mean, std : tuple of 3 float
        Of RGB in 0..1.
    channels_last : bool
        With the strides of channels_last_3d, which torch's convolutions prefer; else contiguous. The numbers are the
        same.

    Returns
    -------
    Tensor of shape (B, 3, T, S, S), float32
    """
    import torch

    if channels_last:  # whole lines at once: a loop over three channels is five times as long
        rows = clips.reshape(*clips.shape[:3], -1)
        scale, shift = _scale_and_shift(tuple(mean), tuple(std), clips.shape[3], clips.device)
    else:  # bytes are quicker to lay out anew than what becomes of them
        rows = clips.permute(0, 4, 1, 2, 3).contiguous()
        scale, shift = (c.view(3, 1, 1, 1) for c in _scale_and_shift(tuple(mean), tuple(std), 1, clips.device))
    out = rows.to(torch.float32, copy=True).mul_(scale).add_(shift)
    return out.reshape(clips.shape).permute(0, 4, 1, 2, 3) if channels_last else out


def describe_preprocessing(size_px: int, num_frames: int, mean: Any, std: Any, stream: str) -> dict[str, Any]:
    """Return what preprocessing contributes to the feature fingerprint."""
    return {
        "version": PREPROCESSING_VERSION,
        "resize": RESIZE,
        "size_px": size_px,
        "num_frames": num_frames,
        "mean": [float(m) for m in mean],
        "std": [float(s) for s in std],
        "stream": stream,
    }
