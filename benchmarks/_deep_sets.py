"""The baseline without self-supervision: a deep-sets network, untrained or trained on the labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

import aggregate


@dataclass(frozen=True)
class Videos:
    """Crops of N videos, and what a probe must know of them."""

    features: np.ndarray
    """(N, V, D)."""
    raw_geometry: np.ndarray
    """(N, V, 9)."""
    valid: np.ndarray
    """(N, V) bool."""
    labels: np.ndarray
    """(N,) int64."""
    groups: np.ndarray
    """(N,) int64: videos cut from one source share it."""
    frame_size_px: np.ndarray | None = None
    """(N, 2)."""

    def pooled(self) -> np.ndarray:
        """(N, D), the mean of the valid crops."""
        weights = self.valid[..., None]
        return (self.features * weights).sum(1) / np.maximum(weights.sum(1), 1)


class DeepSets(nn.Module):
    """Per crop an MLP on [feature; geometry], mean over crops, an MLP: about as many parameters as SCALE at work."""

    def __init__(self, dim: int, width: int = 128, num_classes: int = 64) -> None:
        super().__init__()
        self.crop = nn.Sequential(nn.Linear(dim + 7, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.video = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.classes = nn.Linear(width, num_classes)

    def forward(self, features: torch.Tensor, raw_geometry: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Return (N, width)."""
        geometry = aggregate.derive_geometry(raw_geometry, valid)
        h = self.crop(torch.cat((features.float(), geometry), -1)) * valid[..., None]
        return self.video(h.sum(1) / valid.sum(1, keepdim=True).clamp_min(1))

    @torch.no_grad()
    def embed(self, videos: Videos) -> torch.Tensor:
        """Return (N, width)."""
        return self.eval()(*_tensors(videos))

    @torch.no_grad()
    def hits(self, videos: Videos) -> np.ndarray:
        """Return (N,) bool: which videos its own classifier gets right."""
        return self.classes(self.embed(videos)).argmax(1).numpy() == videos.labels


def fit_on_labels(network: DeepSets, videos: Videos, seed: int) -> None:
    """Train end to end on the training labels, crops dropped at random; no self-supervision."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    x, where, valid = _tensors(videos)
    labels = torch.as_tensor(videos.labels)
    for _ in range(60):
        for chosen in torch.randperm(len(x), generator=generator).split(64):
            kept = valid[chosen] & (torch.rand(valid[chosen].shape, generator=generator) < 0.5)
            scores = network.classes(network(x[chosen], where[chosen], kept))
            optimiser.zero_grad()
            nn.functional.cross_entropy(scores, labels[chosen]).backward()
            optimiser.step()


def _tensors(videos: Videos) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.as_tensor(videos.features), torch.as_tensor(videos.raw_geometry), torch.as_tensor(videos.valid)
