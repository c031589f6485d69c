"""Small batches of sets for tests of objectives and the model."""

from __future__ import annotations

import torch
from torch import Tensor

from aggregate.data.batch import CropBatch, SetBatch, draw_mask, make_set_batch
from aggregate.data.geometry import derive_geometry
from aggregate.data.sets import Splitter, disjoint_sets
from pipeline.recipe import ModelSpec

TINY = ModelSpec(
    dim=16, num_heads=2, head_hidden_dim=12, target_hidden_dim=10, projection_dim=6, dropout=0.0, num_layers=2
)
CPU = torch.device("cpu")


def raw_geometry(num_videos: int, num_crops: int, generator: torch.Generator) -> Tensor:
    """Believable raw boxes, (N, W, 9) float32."""
    start = torch.rand(num_videos, num_crops, generator=generator) * 5
    top = torch.rand(num_videos, num_crops, generator=generator) * 100
    left = torch.rand(num_videos, num_crops, generator=generator) * 150
    flip = (torch.rand(num_videos, num_crops, generator=generator) < 0.5).float()
    return torch.stack(
        (start, start + 2, top, left, top + 112, left + 112, flip, torch.full_like(start, 4.0), start * 30), -1
    )


def crop_batch(
    num_videos: int,
    num_crops: int,
    dim: int = 8,
    *,
    seed: int = 0,
    share_valid: float = 1.0,
    num_groups: int | None = None,
) -> CropBatch:
    """Random crops; a share of them valid; groups that several videos share."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(num_videos, num_crops, dim, generator=g)
    valid = torch.rand(num_videos, num_crops, generator=g) < share_valid
    raw = raw_geometry(num_videos, num_crops, g)
    ids = torch.arange(100, 100 + num_videos)
    groups = ids if num_groups is None else torch.arange(num_videos) % num_groups
    return CropBatch(features, derive_geometry(raw, valid), raw, torch.arange(num_videos), valid, ids, groups)


def set_batch(
    num_videos: int = 5,
    num_crops: int = 6,
    *,
    dim: int = 8,
    set_size: int = 3,
    seed: int = 0,
    share_valid: float = 1.0,
    num_groups: int | None = None,
    mask_ratio: float = 0.4,
    splitter: Splitter | None = None,
) -> SetBatch:
    """The same, dealt into sets and masked."""
    crops = crop_batch(num_videos, num_crops, dim, seed=seed, share_valid=share_valid, num_groups=num_groups)
    g = torch.Generator().manual_seed(seed + 1)
    sets = (splitter or disjoint_sets(set_size))(crops.valid, crops.raw_geometry, g)
    return make_set_batch(crops, sets, draw_mask(sets.valid, mask_ratio, g), CPU)
