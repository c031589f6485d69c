"""Features off the device: on a CPU at once, on a GPU through pinned memory, ready when an event says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


class Download(Protocol):
    """Features on their way to the host."""

    def wait(self) -> np.ndarray:
        """Return them, (B, D) float32, as soon as they are there."""


class _Ready:
    def __init__(self, features: torch.Tensor) -> None:
        self._features = features

    def wait(self) -> np.ndarray:
        return self._features.numpy()


class _Copying:
    """A copy that the device makes when it has computed the features; the host goes on meanwhile."""

    def __init__(self, features: torch.Tensor) -> None:
        import torch

        self._on_host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        self._on_host.copy_(features, non_blocking=True)
        self._is_there = torch.cuda.Event()
        self._is_there.record(torch.cuda.current_stream(features.device))

    def wait(self) -> np.ndarray:
        self._is_there.synchronize()
        return self._on_host.numpy()


def start_download(features: torch.Tensor) -> Download:
    """Begin to fetch features.

    Parameters
    ----------
    features : Tensor of shape (B, D), float32
        Their memory may be used again as soon as later work on the same stream allows.

    Returns
    -------
    Download
    """
    return _Copying(features) if features.device.type == "cuda" else _Ready(features)
