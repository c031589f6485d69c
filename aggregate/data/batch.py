"""What flows through a training step: stored crops of some videos, then sets of them.

Legend: B = videos, W = stored crops a video, S = sets, V = crops a set, N = scored targets, M = masked crops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from aggregate.data.sets import SetIndex
from pipeline.compute.transfer import send


@dataclass(frozen=True)
class CropBatch:
    """Stored crops of B videos, as a source hands them out.

    Attributes
    ----------
    pool_features : Tensor
        (P, W, D) on the device, stored dtype; P >= B videos, perhaps all of the selection.
    pool_geometry : Tensor
        (P, W, 7) float32 on the device.
    pool_raw_geometry : Tensor
        (P, W, 9) float32 on the CPU.
    pool_positions : Tensor
        (B,) int64 on the CPU: which videos of the pool this batch is made of.
    valid : Tensor
        (B, W) bool on the CPU.
    video_ids, group_ids : Tensor
        (B,) int64 on the CPU. Videos of one source share a group.
    more_features : tuple of Tensor
        (P, W, D_s) on the device: the same crops in further streams.
    """

    pool_features: Tensor
    pool_geometry: Tensor
    pool_raw_geometry: Tensor
    pool_positions: Tensor
    valid: Tensor
    video_ids: Tensor
    group_ids: Tensor
    more_features: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        return self.pool_positions.shape[0]

    @property
    def raw_geometry(self) -> Tensor:
        """(B, W, 9) float32 on the CPU."""
        return self.pool_raw_geometry.index_select(0, self.pool_positions)


@dataclass(frozen=True)
class SetBatch:
    """B videos with S sets of V crops each: what encoders read and objectives score.

    Attributes
    ----------
    features : Tensor
        (B, S, V, D) float: the frozen features.
    geometry : Tensor
        (B, S, V, 7) float32.
    stored_raw_geometry, stored_index : Tensor
        (P, W, 9) float32 and (B * S * V,) int64 on the CPU: where `raw_geometry` is gathered from.
    valid, masked : Tensor
        (B, S, V) bool. Only valid crops are masked.
    all_valid : bool
        Whether `valid` is all True (known without asking the device).
    masked_index : Tensor
        (M,) int64, flat positions in (B * S * V), ascending.
    target_index : Tensor or None
        (N,) int64, flat positions of every distinct valid crop; None: all positions, in order.
    target_of_token : Tensor or None
        (B * S * V,) int64: the token's row among the N targets (-1 if invalid); None: the identity.
    crops : Tensor
        (B, S, V) int64, which stored crop each token is.
    video_ids, group_ids : Tensor
        (B,) int64.
    """

    features: Tensor
    geometry: Tensor
    stored_raw_geometry: Tensor
    stored_index: Tensor
    valid: Tensor
    masked: Tensor
    all_valid: bool
    masked_index: Tensor
    target_index: Tensor | None
    target_of_token: Tensor | None
    crops: Tensor
    video_ids: Tensor
    group_ids: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, S, V)."""
        num_videos, num_sets, num_crops = self.valid.shape
        return num_videos, num_sets, num_crops

    @cached_property
    def raw_geometry(self) -> Tensor:
        """(B, S, V, 9) float32 on the device: seconds and source pixels, for objectives on order and overlap."""
        raw = self.stored_raw_geometry.flatten(0, 1).index_select(0, self.stored_index)
        return send(raw.view(*self.valid.shape, -1), self.valid.device)

    @property
    def set_valid(self) -> Tensor:
        """(B, S) bool: sets with at least one crop."""
        return self.valid.any(-1)

    @property
    def num_masked(self) -> int:
        """M, known without asking the device."""
        return self.masked_index.shape[0]


def draw_mask(valid: Tensor, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Mask each valid crop independently with probability `mask_ratio` (Bernoulli, as the released code)."""
    return (torch.rand(valid.shape, generator=generator) < mask_ratio) & valid


def in_stream(sets: SetBatch, pool_features: Tensor) -> SetBatch:
    """Return the same sets of the same crops as another stream shows them; `pool_features` is (P, W, D_s)."""
    index = send(sets.stored_index, pool_features.device)
    features = pool_features.flatten(0, 1).index_select(0, index).view(*sets.valid.shape, -1)
    return replace(sets, features=features.float() if features.dtype == torch.float16 else features)


def make_set_batch(batch: CropBatch, sets: SetIndex, masked: Tensor, device: torch.device) -> SetBatch:
    """Gather the crops of each set on the device.

    Everything ragged is decided on the CPU and sent as index arrays, so the
    device is never waited for.

    Parameters
    ----------
    batch : CropBatch
    sets : SetIndex
        On the CPU.
    masked : Tensor
        (B, S, V) bool on the CPU.
    device : torch.device
        Where the pool lies.
    """
    num_crops = batch.pool_features.shape[1]
    flat = (batch.pool_positions[:, None, None] * num_crops + sets.crops).flatten()
    index = send(flat, device)
    shape = sets.crops.shape
    target_index, target_of_token = _distinct_targets(sets)
    features = batch.pool_features.flatten(0, 1).index_select(0, index).view(*shape, -1)
    if not features.is_floating_point() or features.dtype == torch.float16:
        features = features.float()
    return SetBatch(
        features=features,
        geometry=batch.pool_geometry.flatten(0, 1).index_select(0, index).view(*shape, -1),
        stored_raw_geometry=batch.pool_raw_geometry,
        stored_index=flat,
        valid=send(sets.valid, device),
        masked=send(masked, device),
        all_valid=bool(sets.valid.all()),
        masked_index=send(masked.flatten().nonzero().squeeze(1), device),
        target_index=None if target_index is None else send(target_index, device),
        target_of_token=None if target_of_token is None else send(target_of_token, device),
        crops=send(sets.crops, device),
        video_ids=send(batch.video_ids, device),
        group_ids=send(batch.group_ids, device),
    )


def _distinct_targets(sets: SetIndex) -> tuple[Tensor | None, Tensor | None]:
    """Find the first token of every distinct valid crop: each is a target once, however many sets hold it."""
    if sets.disjoint and bool(sets.valid.all()):
        return None, None
    num_videos = sets.valid.shape[0]
    valid = sets.valid.flatten()
    width = int(sets.crops.max()) + 1 if sets.crops.numel() else 1
    crop = (torch.arange(num_videos)[:, None, None] * width + sets.crops).flatten()
    positions = valid.nonzero().squeeze(1)
    owner = torch.full((num_videos * width,), valid.numel(), dtype=torch.int64)
    owner.scatter_reduce_(0, crop[positions], positions, reduce="amin")  # a crop belongs to its first token
    target_index = positions[owner[crop[positions]] == positions]
    rank = torch.full((valid.numel(),), -1, dtype=torch.int64)
    rank[target_index] = torch.arange(target_index.numel())
    target_of_token = torch.full_like(rank, -1)
    target_of_token[positions] = rank[owner[crop[positions]]]
    return target_index, target_of_token
