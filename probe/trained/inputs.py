"""What a trained probe reads: cached features on a device, standardised as they are taken."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ShapeMismatchError

MIN_RELATIVE_STD = 0.05
"""Channels that hardly vary in train are not blown up: their scale is at least this share of the typical one."""
NUMBERS_PER_PASS = 1 << 19
"""Statistics are summed in float64, a few MiB at a time, so that the copies stay in the processor's cache."""


@dataclass(frozen=True)
class Input:
    """Features of N videos: (N, D), or (N, V, D) with the mask of the usable crops."""

    features: Tensor
    """float16 or float32, as stored; a cached float16 set stays float16 in memory."""
    valid_NV: Tensor | None = None
    mean_D: Tensor | None = None
    """Subtracted when rows are taken."""
    scale_D: Tensor | None = None
    """Multiplied after that."""
    is_scaled: bool = False
    """Whether the channels have the say they shall have: all are then scaled by one number, so that steps fit."""

    @classmethod
    def of(cls, features: np.ndarray, valid_NV: np.ndarray | None = None, *, is_scaled: bool = False) -> Input:
        """Wrap arrays without copying them.

        Raises
        ------
        ShapeMismatchError
            If `features` is neither (N, D) nor (N, V, D) with a mask (N, V).
        """
        fits = features.ndim == 2 and valid_NV is None
        fits |= features.ndim == 3 and valid_NV is not None and valid_NV.shape == features.shape[:2]
        if not fits:
            raise ShapeMismatchError(
                "expected features (N, D), or (N, V, D) with a mask (N, V), "
                f"found {features.shape} and {None if valid_NV is None else valid_NV.shape}"
            )
        mask = None if valid_NV is None else torch.from_numpy(np.ascontiguousarray(valid_NV, bool))
        return cls(torch.from_numpy(np.ascontiguousarray(features)), mask, is_scaled=is_scaled)

    def __len__(self) -> int:
        """Return the number of videos."""
        return len(self.features)

    @property
    def dim(self) -> int:
        """Channels."""
        return int(self.features.shape[-1])

    @property
    def has_crops(self) -> bool:
        """Whether every video has an axis of crops."""
        return self.features.ndim == 3

    def subset(self, rows: np.ndarray) -> Input:
        """Return some of the videos."""
        at = torch.from_numpy(rows)
        return replace(self, features=self.features[at], valid_NV=None if self.valid_NV is None else self.valid_NV[at])

    def to(self, device: torch.device) -> Input:
        """Return the same on a device."""
        valid, mean, scale = (t if t is None else t.to(device) for t in (self.valid_NV, self.mean_D, self.scale_D))
        return replace(self, features=self.features.to(device), valid_NV=valid, mean_D=mean, scale_D=scale)

    def take(self, rows: Tensor, crops: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return standardised features (B, D) or (B, V, D) in float32, and their mask.

        Parameters
        ----------
        rows : Tensor of shape (B,), int64
        crops : Tensor of shape (B,), int64, optional
            One crop a row; the result is then (B, D).
        """
        features = self.features[rows] if crops is None else self.features[rows, crops]
        features = features.float()  # a copy already: what follows may overwrite it
        if self.mean_D is not None and self.scale_D is not None:
            features.sub_(self.mean_D).mul_(self.scale_D)
        return features, None if self.valid_NV is None or crops is not None else self.valid_NV[rows]

    def shuffled(self, generator: torch.Generator, *, by_crop: bool) -> tuple[Tensor, Tensor | None]:
        """Return the rows of one epoch in random order, on the CPU; with one random valid crop each if `by_crop`."""
        rows = torch.randperm(len(self), generator=generator)
        if not by_crop or self.valid_NV is None:
            return rows, None
        valid = self.valid_NV.cpu()[rows].float()
        return rows, torch.multinomial(valid, 1, generator=generator)[:, 0]


def prepare(train: Input, test: Input) -> tuple[Input, Input]:
    """Standardise both sides by the train rows' channel means and deviations (their valid crops')."""
    total = torch.zeros(train.dim, dtype=torch.float64)
    squares = torch.zeros(train.dim, dtype=torch.float64)
    count = 0
    rows_per_pass = max(1, NUMBERS_PER_PASS // max(1, train.features[:1].numel()))
    for start in range(0, len(train), rows_per_pass):
        rows = slice(start, start + rows_per_pass)
        part = train.features[rows].double().flatten(0, -2)
        if train.valid_NV is not None:
            part = part[train.valid_NV[rows].flatten()]
        total += part.sum(dim=0)
        squares += part.square().sum(dim=0)
        count += len(part)
    mean = total / max(count, 1)
    deviation = (squares / max(count, 1) - mean.square()).clamp_min(0).sqrt()
    typical = deviation.square().mean().sqrt()
    deviation = deviation.clamp_min(float(MIN_RELATIVE_STD * typical) or 1.0)
    if train.is_scaled:
        deviation = typical.clamp_min(1e-12).expand_as(deviation)
    mean_D, scale_D = mean.float(), (1 / deviation).float()
    return replace(train, mean_D=mean_D, scale_D=scale_D), replace(test, mean_D=mean_D, scale_D=scale_D)
