"""Small modules that turn a network's last activations into one vector a crop."""

from __future__ import annotations

import torch
from torch import nn


class MeanOverSpaceTime(nn.Module):
    """(B, C, T, H, W) -> (B, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over all positions."""
        return x.mean(dim=(2, 3, 4))


class MeanOverFrames(nn.Module):
    """Run an image network on every frame and average: (B, 3, T, H, W) -> (B, D).

    Parameters
    ----------
    image_network : nn.Module
        (N, 3, H, W) -> (N, D).
    """

    def __init__(self, image_network: nn.Module) -> None:
        super().__init__()
        self.image_network = image_network

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Average over the frames of each crop."""
        num_crops, channels, frames, height, width = clips.shape
        images = clips.transpose(1, 2).reshape(num_crops * frames, channels, height, width)
        features = self.image_network(images)
        return features.reshape(num_crops, frames, -1).mean(dim=1)
