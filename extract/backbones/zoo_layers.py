"""Modules that replace parts of pytorchvideo's networks."""

from __future__ import annotations

import torch
from torch import nn


class KeepDimsMean(nn.Module):
    """(B, C, T, H, W) -> (B, C, 1, 1, 1); X3D's ``AvgPool3d`` breaks torch.compile's graph."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over all positions."""
        return x.mean(dim=(2, 3, 4), keepdim=True)


class ClassToken(nn.Module):
    """(B, tokens, C) -> (B, C): the first token."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the class token."""
        return x[:, 0]


class SlowFastFeatures(nn.Module):
    """SlowFast with both pathways made from one clip: (B, 3, T, H, W) -> (B, 2048 + 256).

    The fast pathway sees all T frames, the slow one T / 4 of them, evenly
    spread with both ends, as pytorchvideo's ``PackPathway`` (alpha = 4).
    """

    alpha = 4

    def __init__(self, blocks: nn.ModuleList) -> None:
        super().__init__()
        self.blocks = blocks

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return the pooled features of both pathways, slow first."""
        frames = clips.shape[2]
        # in integers: torch.linspace in float32 truncates some exact positions to the frame before
        num_slow = frames // self.alpha
        slow = [i * (frames - 1) // max(num_slow - 1, 1) for i in range(num_slow)]
        pathways = [clips[:, :, slow], clips]
        for block in self.blocks:
            pathways = block(pathways)
        return torch.cat([x.mean(dim=(2, 3, 4)) for x in pathways], dim=1)
