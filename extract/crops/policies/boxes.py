"""Boxes in space: whole source pixels, always inside the frame."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws
from extract.crops.policies.base import VideoFacts


def short_side_of(facts: VideoFacts) -> int:
    """Return the shorter side of the frame in pixels."""
    return min(facts.width, facts.height)


def square_side_px(facts: VideoFacts, size_px: int, short_side_px: np.ndarray | int) -> np.ndarray:
    """Return the side, in source pixels, of a `size_px` square cut after the short side was resized to `short_side_px`.

    Resizing and cutting commute, so the store keeps the box of the source and
    pixels are resampled once. Never larger than the short side.
    """
    short = short_side_of(facts)
    side = np.rint(size_px / np.asarray(short_side_px, dtype=np.float64) * short)
    return np.clip(side, 1, short).astype(np.int64)


def random_squares(facts: VideoFacts, side: np.ndarray, draws: Draws) -> np.ndarray:
    """Return (V, 4) squares at uniform places."""
    top = draws.integers(0, facts.height - side, len(side))
    left = draws.integers(0, facts.width - side, len(side))
    return np.stack([top, left, top + side, left + side], axis=1)


def spread_squares(facts: VideoFacts, side: int, places: int) -> np.ndarray:
    """Return (places, 4) squares spread along the longer side, first and last touching the borders; one is central."""
    spare_y, spare_x = facts.height - side, facts.width - side
    share = np.array([0.5]) if places == 1 else np.arange(places) / (places - 1)
    half = np.full(places, 0.5)
    along_y, along_x = (share, half) if facts.height > facts.width else (half, share)
    top = np.rint(spare_y * along_y).astype(np.int64)
    left = np.rint(spare_x * along_x).astype(np.int64)
    return np.stack([top, left, top + side, left + side], axis=1)


def random_resized_boxes(
    facts: VideoFacts, area: tuple[float, float], aspect: tuple[float, float], size: int, draws: Draws, tries: int = 10
) -> np.ndarray:
    """Return (size, 4) boxes of a random area and log-uniform aspect (width / height), as torchvision's rule.

    Up to ten tries, then the largest central box within the aspect limits.
    """
    share = draws.uniform(area[0], area[1], size * tries).reshape(size, tries)
    ratio = np.exp(draws.uniform(np.log(aspect[0]), np.log(aspect[1]), size * tries)).reshape(size, tries)
    pixels = share * facts.width * facts.height
    width, height = np.rint(np.sqrt(pixels * ratio)), np.rint(np.sqrt(pixels / ratio))
    fits = (width >= 1) & (height >= 1) & (width <= facts.width) & (height <= facts.height)
    first = np.argmax(fits, axis=1)
    found = fits.any(axis=1)
    pick = np.arange(size)
    central_w, central_h = _central_size(facts, aspect)
    w = np.where(found, width[pick, first], central_w).astype(np.int64)
    h = np.where(found, height[pick, first], central_h).astype(np.int64)
    place_y, place_x = draws.unit(size), draws.unit(size)
    top = np.where(found, np.floor(place_y * (facts.height - h + 1)), (facts.height - h) // 2).astype(np.int64)
    left = np.where(found, np.floor(place_x * (facts.width - w + 1)), (facts.width - w) // 2).astype(np.int64)
    return np.stack([top, left, top + h, left + w], axis=1)


def _central_size(facts: VideoFacts, aspect: tuple[float, float]) -> tuple[int, int]:
    ratio = facts.width / facts.height
    if ratio < aspect[0]:
        return facts.width, min(max(round(facts.width / aspect[0]), 1), facts.height)
    if ratio > aspect[1]:
        return min(max(round(facts.height * aspect[1]), 1), facts.width), facts.height
    return facts.width, facts.height


def short_sides(value: int | tuple[int, int], size: int, draws: Draws) -> np.ndarray:
    """Return `size` short sides: the fixed one, or uniform over the (whole) range."""
    low, high = (value, value) if isinstance(value, int) else value
    return np.rint(draws.uniform(low, high, size)).astype(np.int64)
