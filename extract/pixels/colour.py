"""Colour augmentation of SCALE's strong crops: one draw a crop, so that it is the same in every frame of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from extract.crops.draw import policy_draws
from extract.crops.draws import Draws
from pipeline.recipe import ColourAugmentation
from pipeline.recipe.crops import CropPolicyBase

if TYPE_CHECKING:
    import torch

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class ColourDraw:
    """What happens to the colours of one crop."""

    order: tuple[int, ...]
    """Order of brightness (0), contrast (1), saturation (2), hue (3); empty: no jitter."""
    factors: tuple[float, float, float, float]
    """Of brightness, contrast and saturation; the hue's shift in turns."""
    is_grey: bool
    blur_sigma: float
    """In pixels of the resized crop, relative to 224 of them; 0: no blur."""

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens."""
        return not self.order and not self.is_grey and self.blur_sigma == 0


def draw_colours(policy: CropPolicyBase, video_id: str, num_crops: int) -> list[ColourDraw | None]:
    """Draw the augmentation of every crop of a video; None for policies without one.

    From a random stream of its own, so that boxes do not depend on it.
    """
    spec: ColourAugmentation | None = getattr(policy, "colour", None)
    if spec is None:
        return [None] * num_crops
    return colour_draws(spec, policy_draws(policy, video_id, "colour"), num_crops)


def colour_draws(spec: ColourAugmentation, draws: Draws, num_crops: int) -> list[ColourDraw | None]:
    """Draw the augmentation of some crops."""
    jitter = draws.bernoulli(spec.jitter_probability, num_crops)
    order = np.argsort(draws.unit(num_crops * 4).reshape(num_crops, 4), axis=1, kind="stable")
    columns = [
        draws.uniform(max(0.0, 1 - s), 1 + s, num_crops) for s in (spec.brightness, spec.contrast, spec.saturation)
    ]
    columns.append(draws.uniform(-spec.hue, spec.hue, num_crops))
    grey = draws.bernoulli(spec.grey_probability, num_crops)
    blur = draws.bernoulli(spec.blur_probability, num_crops)
    sigma = draws.uniform(*spec.blur_sigma, num_crops)
    return [
        ColourDraw(
            order=tuple(int(k) for k in order[v]) if jitter[v] else (),
            factors=(float(columns[0][v]), float(columns[1][v]), float(columns[2][v]), float(columns[3][v])),
            is_grey=bool(grey[v]),
            blur_sigma=float(sigma[v]) if blur[v] else 0.0,
        )
        for v in range(num_crops)
    ]


def augment_colours(clip: torch.Tensor, draw: ColourDraw) -> torch.Tensor:
    """Apply a draw to a crop.

    Parameters
    ----------
    clip : Tensor of shape (T, 3, H, W), uint8
    draw : ColourDraw

    Returns
    -------
    Tensor of shape (T, 3, H, W), uint8
        Rounded to whole grey levels, as image libraries do after colour work.
    """
    import torch

    if draw.is_identity:
        return clip
    x = clip.float() / 255
    for kind in draw.order:
        x = _jitter(x, kind, draw.factors[kind])
    if draw.is_grey:
        x = _grey(x).expand_as(x)
    if draw.blur_sigma > 0:
        x = _blur(x, draw.blur_sigma)
    return (x * 255).round_().clamp_(0, 255).to(torch.uint8)


def _jitter(x: torch.Tensor, kind: int, factor: float) -> torch.Tensor:
    if kind == 0:
        return (x * factor).clamp(0, 1)
    if kind == 1:  # the mean over all frames: SCALE stacks the frames into one tall image
        return (x * factor + _grey(x).mean() * (1 - factor)).clamp(0, 1)
    if kind == 2:
        return (x * factor + _grey(x) * (1 - factor)).clamp(0, 1)
    return _shift_hue(x, factor)


def _grey(x: torch.Tensor) -> torch.Tensor:
    return x[:, 0:1] * _LUMA[0] + x[:, 1:2] * _LUMA[1] + x[:, 2:3] * _LUMA[2]


def _shift_hue(x: torch.Tensor, turns: float) -> torch.Tensor:
    """Turn the hue in HSV space, as torchvision does."""
    import torch

    red, green, blue = x.unbind(1)
    top, bottom = x.amax(1), x.amin(1)
    span = top - bottom
    safe = torch.where(span == 0, torch.ones_like(span), span)
    hue = torch.where(
        top == red,
        (green - blue) / safe,
        torch.where(top == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = torch.remainder(hue / 6 + turns, 1.0) * 6
    parts = [_hsv_channel(hue, top, span, offset) for offset in (5.0, 3.0, 1.0)]
    return torch.stack(parts, dim=1)


def _hsv_channel(hue: torch.Tensor, value: torch.Tensor, span: torch.Tensor, offset: float) -> torch.Tensor:
    import torch

    k = torch.remainder(offset + hue, 6.0)
    return value - span * torch.minimum(k, 4 - k).clamp(0, 1)


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    import torch
    from torch.nn import functional

    scaled = sigma * x.shape[-1] / 224
    radius = max(x.shape[-1] // 20, 1)  # BYOL: a kernel of about a tenth of the side
    offsets = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / max(scaled, 1e-3)) ** 2)
    kernel = kernel / kernel.sum()
    num_frames, channels, height, width = x.shape
    flat = x.reshape(num_frames * channels, 1, height, width)
    flat = functional.pad(flat, (radius, radius, radius, radius), mode="reflect")
    flat = functional.conv2d(flat, kernel.view(1, 1, 1, -1))
    flat = functional.conv2d(flat, kernel.view(1, 1, -1, 1))
    return flat.reshape(num_frames, channels, height, width)
