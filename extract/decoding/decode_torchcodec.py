"""Decoding with torchcodec, where it is installed: the same frames as PyAV, and the only way to decode on a GPU.

PyAV still indexes every video. torchcodec reads it only where packets are
frames and timestamps are sound; other videos (packed AVI, transport streams,
pixels that are not square, frames that change size) are read by PyAV, and the
reader says so in `decoder_name`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from extract.decoding.decode import PYAV_VERSION, DecodedFrames, PyavReader, check_indices
from extract.decoding.scan import VideoScan
from pipeline.errors import MissingDependencyError, SetupError

_FIX = "pip install 'scale-pipeline[torchcodec]' and FFmpeg's shared libraries (make system), or use decoder pyav"


def import_torchcodec() -> Any:
    """Return the module.

    Raises
    ------
    MissingDependencyError
        If it is not installed or finds no FFmpeg; the message says how to get it.
    """
    try:
        import torchcodec
        import torchcodec.decoders
    except (ImportError, RuntimeError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MissingDependencyError(f"expected torchcodec, found: {reason}; {_FIX}") from None
    return torchcodec


def can_read(scan: VideoScan) -> bool:
    """Whether torchcodec numbers and shows the frames of this video as the index does."""
    index, picture = scan.index, scan.picture
    return (
        not scan.files
        and index.error is None
        and scan.damage is None
        and index.pts is not None
        and not picture.mirrored
        and (picture.scaled_width, picture.scaled_height) == (picture.stored_width, picture.stored_height)
    )


class TorchcodecReader(PyavReader):
    """Reads frames with torchcodec in its exact mode, and with PyAV what torchcodec cannot.

    Parameters
    ----------
    path : Path
    scan : VideoScan
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``. Frames come back in host memory.
    threads : int
    """

    def __init__(self, path: Path, scan: VideoScan, *, device: str = "cpu", threads: int = 1) -> None:
        super().__init__(path, scan, threads=threads)
        torchcodec = import_torchcodec()
        self._decoder: Any = None
        if not can_read(scan):
            return
        try:
            self._decoder = torchcodec.decoders.VideoDecoder(
                os.path.abspath(path),
                stream_index=scan.stream_index,
                dimension_order="NHWC",
                num_ffmpeg_threads=threads,
                device=device,
                seek_mode="exact",
            )
        except (RuntimeError, ValueError, OSError) as error:
            if device != "cpu" and "cuda" in str(error).lower():
                raise SetupError(f"expected to decode on {device}, found: {str(error).splitlines()[0]}") from None
            return
        if len(self._decoder) != scan.index.num_frames:
            self._decoder = None
            return
        self.decoder_name = "torchcodec"
        self.decoder_version = torchcodec.__version__ + ("" if device == "cpu" else f"/{device.split(':')[0]}")

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        """Decode frames; see :meth:`extract.decoding.decode.PyavReader.read`."""
        if self._decoder is None:
            return super().read(indices, out)
        indices = check_indices(indices, self.num_frames)
        try:
            batch = self._decoder.get_frames_at(indices.tolist()).data
            frames = batch.cpu().numpy()
        except (RuntimeError, ValueError, IndexError):
            frames = None  # a broken packet, or a frame of another size: PyAV says how far it goes
        if frames is None or frames.shape[1:] != (self.height, self.width, 3):
            self._decoder = None
            self.decoder_name, self.decoder_version = "pyav", PYAV_VERSION
            return super().read(indices, out)
        if out is not None:
            out[:] = frames
            frames = out
        return DecodedFrames(indices, frames, None)
