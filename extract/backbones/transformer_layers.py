"""Around transformers' video models: the axes they want, and what is read from their tokens."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn


class FramesFirst(nn.Module):
    """A transformers video model as a feature extractor: (B, 3, T, H, W) -> (B, D).

    Parameters
    ----------
    network : nn.Module
        Takes (B, T, 3, H, W) and returns tokens, (B, N, D).
    readout : {"first", "mean"}
        The class token, or the mean of all tokens.
    after : nn.Module, optional
        Applied to the vector that was read: fine-tuned VideoMAE's ``fc_norm``.
    """

    def __init__(self, network: Any, readout: Literal["first", "mean"], after: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network
        self.readout = readout
        self.after = after

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Return one feature a crop."""
        tokens = self.network(clips.transpose(1, 2)).last_hidden_state
        feature = tokens[:, 0] if self.readout == "first" else tokens.mean(dim=1)
        return feature if self.after is None else self.after(feature)
