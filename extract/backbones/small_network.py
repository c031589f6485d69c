"""A small residual (2+1)D network, for encoders that learn on a CPU, and the norms that encoders may choose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

Norm = Callable[[int], nn.Module]
MAX_GROUPS = 8


class GroupNorm3d(nn.Module):
    """Group norm over (B, C, T, H, W), of all frames together or of each by itself.

    By frame, no statistic mixes moments, so that how fast things change does not show in it (temporal group norm,
    Cho et al., arXiv 2003.02692).
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *, by_frame: bool = False) -> None:
        super().__init__()
        del momentum  # what builders say to a batch norm
        groups = next(n for n in range(min(MAX_GROUPS, num_features), 0, -1) if num_features % n == 0)
        self.norm = nn.GroupNorm(groups, num_features, eps)
        self.by_frame = by_frame

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the same shape."""
        if not self.by_frame:
            normed: torch.Tensor = self.norm(x)
            return normed
        flat = x.transpose(1, 2).flatten(0, 1)
        return self.norm(flat).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class SmallBlock(nn.Module):
    """Convolution in space, then in time, beside a shortcut."""

    def __init__(self, channels_in: int, channels: int, stride: tuple[int, int], norm: Norm) -> None:
        super().__init__()
        in_time, in_space = stride
        self.space = nn.Conv3d(channels_in, channels, (1, 3, 3), (1, in_space, in_space), (0, 1, 1), bias=False)
        self.space_norm = norm(channels)
        self.time = nn.Conv3d(channels, channels, (3, 1, 1), (in_time, 1, 1), (1, 0, 0), bias=False)
        self.time_norm = norm(channels)
        self.shortcut = nn.Conv3d(channels_in, channels, 1, (in_time, in_space, in_space), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, T / stride, H / stride, W / stride)."""
        y = functional.relu(self.space_norm(self.space(x)))
        return functional.relu(self.time_norm(self.time(y)) + self.shortcut(x))


class SmallNetwork(nn.Module):
    """A stem over three frames and three stages of blocks: (B, 3, T, S, S) -> (B, 8 width)."""

    def __init__(self, width: int, blocks_a_stage: int, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, width, (3, 5, 5), (1, 2, 2), (1, 2, 2), bias=False)
        self.stem_norm = norm(width)
        stages: list[nn.Module] = []
        channels = width
        for stride in ((1, 2), (2, 2), (2, 2)):
            for number in range(blocks_a_stage):
                wider = 2 * channels if number == 0 else channels
                stages.append(SmallBlock(channels, wider, stride if number == 0 else (1, 1), norm))
                channels = wider
        self.stages = nn.Sequential(*stages)
        self.dim = channels

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return (B, D)."""
        x: torch.Tensor = self.stages(functional.relu(self.stem_norm(self.stem(clips))))
        return x.mean(dim=(2, 3, 4))
