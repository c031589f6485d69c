"""What is done to clips anew in every step: one draw a clip, so that it is the same in every frame of it.

Everything random comes from :class:`extract.crops.draws.Draws`, for all clips of a step at once; a process that has
only some of them takes its share of the same draws.

Legend: N = clips, T = frames, S = side of the decoded clips, s = side that networks take.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from extract.crops.draws import Draws
from extract.pixels.colour import ColourDraw, augment_colours, colour_draws
from pipeline.recipe import AugmentSpec

MIDDLE = 127.5
TRIES = 10
PLAIN = AugmentSpec(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=False)
"""Nothing is done."""


@dataclass(frozen=True)
class ClipDraws:
    """What happens to each of N clips.

    Attributes
    ----------
    boxes : ndarray
        (N, 4) top, left, bottom, right, as shares of the side.
    flip : ndarray
        (N,) bool.
    mixture : ndarray
        (N, 3, 3): what the distance of the colours from the middle grey is multiplied with.
    colours : list
        ColourDraw or None each.
    donor : ndarray
        (N,) int64: whose background it is put before; its own number: nobody's.
    """

    boxes: np.ndarray
    flip: np.ndarray
    mixture: np.ndarray
    colours: list[ColourDraw | None]
    donor: np.ndarray

    def share(self, begin: int, end: int) -> ClipDraws:
        """Return those of some clips; donors stay numbers among all."""
        part = slice(begin, end)
        return ClipDraws(self.boxes[part], self.flip[part], self.mixture[part], self.colours[part], self.donor[part])


def draw_augmentation(spec: AugmentSpec, draws: Draws, num_videos: int, views: int) -> ClipDraws:
    """Draw what happens to the clips of a step, `views` a video.

    Parameters
    ----------
    spec : AugmentSpec
    draws : Draws
    num_videos, views : int
    """
    count = num_videos * views
    boxes = _boxes(spec, draws, count)
    flip = draws.bernoulli(0.5, count) if spec.flip else np.zeros(count, bool)
    mixture = np.tile(np.eye(3), (count, 1, 1))
    if spec.mix_channels:
        drawn = draws.uniform(-1.0, 1.0, count * 9).reshape(count, 3, 3)
        drawn /= np.abs(drawn).sum(-1, keepdims=True)
        mixture = np.where(draws.bernoulli(spec.mix_channels, count)[:, None, None], drawn, mixture)
    sign = np.where(draws.bernoulli(spec.invert, count), -1.0, 1.0) if spec.invert else np.ones(count)
    mixture *= (sign * draws.uniform(*spec.gain, count))[:, None, None]
    colours: list[ColourDraw | None] = [None] * count
    if spec.colour is not None:
        colours = colour_draws(spec.colour, draws, count)
    own = np.arange(count)
    donor = own
    if spec.foreground is not None and num_videos > 1:
        away = draws.integers(1, num_videos - 1, count)
        other = ((own // views + away) % num_videos) * views + own % views
        donor = np.where(draws.bernoulli(spec.foreground.probability, count), other, own)
    return ClipDraws(boxes, flip, mixture.astype(np.float32), colours, donor)


def _boxes(spec: AugmentSpec, draws: Draws, count: int) -> np.ndarray:
    """Draw boxes of a random area and log-uniform aspect; where none of ten fits, the whole clip."""
    area = draws.uniform(*spec.area, count * TRIES).reshape(count, TRIES)
    ratio = np.exp(draws.uniform(np.log(spec.aspect[0]), np.log(spec.aspect[1]), count * TRIES)).reshape(count, TRIES)
    width, height = np.sqrt(area * ratio), np.sqrt(area / ratio)
    fits = (width <= 1) & (height <= 1)
    first = np.argmax(fits, axis=1)
    pick = np.arange(count)
    w, h = (np.where(fits.any(1), side[pick, first], 1.0) for side in (width, height))
    top, left = draws.unit(count) * (1 - h), draws.unit(count) * (1 - w)
    return np.stack([top, left, top + h, left + w], axis=1)


def augment(
    clips: list[Tensor], drawn: ClipDraws, size_px: int, backgrounds: Tensor | None = None, share: float = 0.5
) -> list[Tensor]:
    """Apply a draw.

    Parameters
    ----------
    clips : list of Tensor
        (N, T, S, S, 3) uint8 each: the clips and, where a stream needs them, the frames before. All get the same.
    drawn : ClipDraws
    size_px : int
        s.
    backgrounds : Tensor, optional
        (M, T, S, S, 3) uint8: the clips that donors are numbers of.
    share : float
        Of the pixels that are foreground.

    Returns
    -------
    list of Tensor
        (N, T, s, s, 3) float32 each, 0..255.
    """
    if backgrounds is not None:
        clips = _merge(clips, drawn.donor, backgrounds, share)
    if any(draw is not None for draw in drawn.colours):
        clips = _coloured(clips, drawn.colours)
    cut = [_cut(one, drawn, size_px) for one in clips]
    if (drawn.mixture != np.eye(3, dtype=np.float32)).any():
        mixture = torch.from_numpy(drawn.mixture).to(cut[0].device)
        cut = [_mixed(one, mixture) for one in cut]
    return [one.permute(0, 1, 3, 4, 2) for one in cut]


def foreground_mask(clips: Tensor, share: float) -> Tensor:
    """Return (N, S, S) bool: the `share` of the pixels that change most over time, smoothed."""
    x = clips.float()
    change = (x[:, 1:] - x[:, :-1]).abs().mean((1, 4))
    side = change.shape[-1]
    width = 2 * (side // 16) + 1
    smooth = functional.avg_pool2d(change[:, None], width, stride=1, padding=width // 2, count_include_pad=False)[:, 0]
    bound = smooth.flatten(1).quantile(1.0 - share, dim=1)
    return smooth > bound[:, None, None]


def _merge(clips: list[Tensor], donor: np.ndarray, backgrounds: Tensor, share: float) -> list[Tensor]:
    mask = foreground_mask(clips[0], share)[:, None, :, :, None]
    behind = backgrounds[torch.from_numpy(donor).to(backgrounds.device)]
    return [torch.where(mask, one, behind) for one in clips]


def _coloured(clips: list[Tensor], colours: list[ColourDraw | None]) -> list[Tensor]:
    out = [torch.empty_like(one) for one in clips]
    for k, draw in enumerate(colours):
        together = torch.cat([one[k] for one in clips]).permute(0, 3, 1, 2)
        done = (together if draw is None else augment_colours(together, draw)).permute(0, 2, 3, 1)
        for one, part in zip(out, done.split(clips[0].shape[1]), strict=True):
            one[k] = part
    return out


def _cut(clips: Tensor, drawn: ClipDraws, size_px: int) -> Tensor:
    """Resample each clip's box to the size that networks take, bilinear; its own pixels where the box is the whole.

    Returns (N, T, 3, s, s): colours before places, where everything that is done to them is several times as fast.
    """
    num_clips, num_frames, side, _, _ = clips.shape
    x = clips.permute(0, 1, 4, 2, 3).flatten(1, 2).float()
    if side != size_px or drawn.flip.any() or (drawn.boxes != [0, 0, 1, 1]).any():
        top, left, bottom, right = drawn.boxes.T
        sign = np.where(drawn.flip, -1.0, 1.0)
        theta = np.zeros((num_clips, 2, 3), np.float32)
        theta[:, 0, 0], theta[:, 0, 2] = sign * (right - left), left + right - 1
        theta[:, 1, 1], theta[:, 1, 2] = bottom - top, top + bottom - 1
        where = functional.affine_grid(
            torch.from_numpy(theta).to(x.device), [num_clips, 1, size_px, size_px], align_corners=False
        )
        x = functional.grid_sample(x, where, mode="bilinear", padding_mode="border", align_corners=False)
    return x.unflatten(1, (num_frames, 3))


def _mixed(clips: Tensor, mixture: Tensor) -> Tensor:
    """Multiply the distance from the middle grey, which a constant beside the product does at once."""
    rest = MIDDLE * (1.0 - mixture.sum(-1))
    return (mixture[:, None] @ clips.flatten(-2)).add_(rest[:, None, :, None]).clamp_(0.0, 255.0).view_as(clips)
