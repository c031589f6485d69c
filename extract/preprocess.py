"""From decoded frames to what a network takes: cut, resize, flip, augment, normalise. On the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from extract.colour import ColourDraw, augment_colours

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
    index = torch.from_numpy(unique).to(frames.device)
    clip = frames[index, top:bottom, left:right].permute(0, 3, 1, 2)
    if clip.shape[-2:] != (size_px, size_px):
        wide = clip if clip.device.type == "cpu" else clip.float()
        wide = functional.interpolate(wide, size=(size_px, size_px), mode="bilinear", antialias=True)
        clip = wide if wide.dtype == torch.uint8 else wide.round_().clamp_(0, 255).to(torch.uint8)
    if len(unique) != len(picks) or (np.diff(picks) < 0).any():
        clip = clip[torch.from_numpy(inverse).to(frames.device)]
    if geometry[FLIP] > 0.5:
        clip = clip.flip(-1)
    if colour is not None:
        clip = augment_colours(clip, colour)
    return clip.permute(0, 2, 3, 1).contiguous()


def normalise(clips: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Scale grey levels to a network's mean and standard deviation.

    Parameters
    ----------
    clips : Tensor of shape (B, T, S, S, 3), uint8 or float32
        0..255.
    mean, std : tuple of 3 float
        Of RGB in 0..1.

    Returns
    -------
    Tensor of shape (B, 3, T, S, S), float32
        With the strides of channels_last_3d, which convolutions prefer.
    """
    import torch

    scale = 1.0 / (255.0 * torch.tensor(std, dtype=torch.float32, device=clips.device))
    shift = -torch.tensor(mean, dtype=torch.float32, device=clips.device) / torch.tensor(std, device=clips.device)
    out = clips.float() if clips.dtype != torch.float32 else clips.clone()
    return out.mul_(scale).add_(shift).permute(0, 4, 1, 2, 3)


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
