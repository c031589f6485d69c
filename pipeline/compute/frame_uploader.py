"""Decoded frames onto the device: on a CPU in place, on a GPU through two pinned buffers and a copy stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

NUM_BUFFERS = 2


class FrameUploader:
    """Uploads uint8 frames. One a thread.

    Parameters
    ----------
    device : torch.device
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: list[torch.Tensor | None] = [None] * NUM_BUFFERS
        self._copied: list[torch.cuda.Event | None] = [None] * NUM_BUFFERS
        self._turn = 0
        self._stream: torch.cuda.Stream | None = None

    def upload(self, frames: np.ndarray) -> torch.Tensor:
        """Return frames on the device.

        Parameters
        ----------
        frames : ndarray of shape (F, H, W, 3), uint8
            On a GPU free to be reused when this returns; on a CPU shared with the result.

        Returns
        -------
        Tensor of shape (F, H, W, 3), uint8
            Work queued on the current stream waits for the copy; the calling thread does not.
        """
        import torch

        if self._device.type != "cuda":
            return torch.from_numpy(frames)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        staged = self._stage(frames)
        with torch.cuda.stream(self._stream):
            on_device = staged.to(self._device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._stream)
        self._copied[self._turn] = copied
        self._turn = (self._turn + 1) % NUM_BUFFERS
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)
        on_device.record_stream(current)
        return on_device

    def _stage(self, frames: np.ndarray) -> torch.Tensor:
        """Copy frames into the pinned buffer whose turn it is, once its last upload is over."""
        import torch

        copied = self._copied[self._turn]
        if copied is not None:
            copied.synchronize()
        buffer = self._buffers[self._turn]
        if buffer is None or buffer.numel() < frames.size:
            buffer = torch.empty(frames.size, dtype=torch.uint8, pin_memory=True)
            self._buffers[self._turn] = buffer
        view = buffer[: frames.size].view(frames.shape)
        view.copy_(torch.from_numpy(frames))
        return view
