"""How a video's stored crops are dealt into sets.

A splitter is a function of which crops are valid and where they lie; it
returns positions, never features. All of them run on the CPU, where the
validity is known without waiting for a device.

Legend: B = videos, W = stored crops a video, S = sets a video, V = crops a set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aggregate.data.geometry import END_S, START_S


@dataclass(frozen=True)
class SetIndex:
    """Which crops make which set.

    Attributes
    ----------
    crops : Tensor
        (B, S, V) int64, positions in 0..W-1; 0 where `valid` is False.
    valid : Tensor
        (B, S, V) bool.
    disjoint : bool
        Whether no crop is in two sets of its video.
    """

    crops: Tensor
    valid: Tensor
    disjoint: bool


Splitter = Callable[[Tensor, Tensor, torch.Generator], SetIndex]
"""``(valid (B, W) bool, raw geometry (B, W, 9), generator) -> SetIndex``, all on the CPU."""


def deal(order: Tensor, counts: Tensor, num_slots: int) -> SetIndex:
    """Deal crops out in a given order, set after set.

    Parameters
    ----------
    order : Tensor
        (B, W) int64: a permutation of the crops of each video, valid ones first.
    counts : Tensor
        (B, S) int64: how many crops each set gets.
    num_slots : int
        V, at least the largest count.
    """
    first = counts.cumsum(1) - counts  # (B, S)
    slot = torch.arange(num_slots).expand(*counts.shape, num_slots)
    valid = slot < counts[..., None]
    position = (first[..., None] + slot).clamp_max(order.shape[1] - 1)
    crops = order.gather(1, position.flatten(1)).view(position.shape)
    return SetIndex(torch.where(valid, crops, 0), valid, disjoint=True)


def disjoint_sets(set_size: int = 8, num_sets: int = 2) -> Splitter:
    """SCALE's own: a random permutation, cut into disjoint sets of `set_size`.

    A video with fewer than ``num_sets * set_size`` valid crops gives sets as
    equal as possible, the first ones larger by one: 5 crops give 3 and 2, one
    crop gives 1 and an empty set.
    """

    def split(valid: Tensor, raw_geometry: Tensor, generator: torch.Generator) -> SetIndex:
        order = _shuffled(valid, generator)
        return deal(order, even_counts(valid.sum(1), set_size, num_sets), _slots(valid, set_size, num_sets))

    return split


def long_short_sets(set_size: int = 8, window: float = 0.25) -> Splitter:
    """Set 1 from the whole video, set 2 from a random window of it (TeG); a crop may be in both.

    Parameters
    ----------
    window : float
        Length of the window as a share of the time that the crops' mid points span.
    """
    return global_local_sets(num_global=1, num_local=1, global_size=set_size, local_size=set_size, window=window)


def global_local_sets(
    num_global: int = 2, num_local: int = 4, global_size: int = 8, local_size: int = 4, window: float = 0.125
) -> Splitter:
    """`num_global` sets over the whole video and `num_local` inside random windows (SVT); sets may share crops.

    A window is laid around a random crop, so that no local set of a readable video is empty.
    """

    def split(valid: Tensor, raw_geometry: Tensor, generator: torch.Generator) -> SetIndex:
        num_slots = min(max(global_size, local_size), valid.shape[1])
        mid_s = _mid_s(raw_geometry)
        low = mid_s.masked_fill(~valid, torch.inf).amin(1, keepdim=True)
        high = mid_s.masked_fill(~valid, -torch.inf).amax(1, keepdim=True)
        half_s = (high - low).clamp_min(0.0) * window / 2
        parts = []
        for i in range(num_global + num_local):
            inside, size = valid, global_size
            if i >= num_global:
                centre_s = mid_s.gather(1, _shuffled(valid, generator)[:, :1])
                inside, size = valid & ((mid_s - centre_s).abs() <= half_s), local_size
            order = _shuffled(inside, generator)
            parts.append(deal(order, even_counts(inside.sum(1), size, 1), num_slots))
        crops, kept = torch.cat([p.crops for p in parts], 1), torch.cat([p.valid for p in parts], 1)
        return SetIndex(crops, kept, disjoint=False)

    return split


def even_counts(num_valid: Tensor, set_size: int, num_sets: int) -> Tensor:
    """Return (B, S) crops for each set: at most `set_size`, as equal as possible, larger ones first."""
    later = torch.arange(num_sets - 1, -1, -1)
    return torch.div(num_valid[:, None] + later, num_sets, rounding_mode="floor").clamp_max(set_size)


def _slots(valid: Tensor, set_size: int, num_sets: int) -> int:
    return max(1, min(set_size, -(-valid.shape[1] // num_sets)))


def _shuffled(eligible: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.rand(eligible.shape, generator=generator)
    return (noise + 2.0 * ~eligible).argsort(dim=1, stable=True)


def _mid_s(raw_geometry: Tensor) -> Tensor:
    return (raw_geometry[..., START_S] + raw_geometry[..., END_S]) / 2
