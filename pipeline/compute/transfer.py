"""Tensors onto a device and features off it: on a CPU at once, on a GPU through pinned memory, without waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device, on a GPU through pinned memory and without waiting for it."""
    return pinned(tensor, device).to(device, non_blocking=device.type == "cuda")


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a copy in pinned memory, from which a GPU fetches by itself; the tensor itself for other devices."""
    return tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor


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
