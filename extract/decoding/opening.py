"""From a path to the reader that decodes it."""

from __future__ import annotations

import os
from pathlib import Path

from extract.decoding.container import check_readable
from extract.decoding.decode import PyavReader, VideoReader
from extract.decoding.decode_torchcodec import TorchcodecReader
from extract.decoding.image_sequence import is_sequence_path, scan_image_sequence
from extract.decoding.scan import open_scanned
from pipeline.errors import InvalidInputError


def open_reader(
    path: str | os.PathLike[str],
    decoder: str = "auto",
    device: str = "cpu",
    *,
    threads: int = 1,
    image_fps: float = 30.0,
) -> VideoReader:
    """Open a video file or a folder of images for reading frames.

    Parameters
    ----------
    path : path
    decoder : str
        ``pyav``, ``torchcodec``, or ``auto``: PyAV, so that every machine makes the same pixels;
        torchcodec for CUDA decoding.
    device : str
        ``cpu``, or ``cuda`` / ``cuda:N`` to decode on the GPU (torchcodec; other pixels than the CPU's).
    threads : int
        FFmpeg threads; 1 when several videos are decoded at once.
    image_fps : float
        Frame rate of image folders.

    Raises
    ------
    VideoError
        If no frame can be decoded; its status is `missing` or `unreadable`.
    """
    if decoder not in ("auto", "pyav", "torchcodec"):
        raise InvalidInputError(f"expected decoder auto, pyav or torchcodec, found {decoder!r}")
    if decoder == "pyav" and device != "cpu":
        raise InvalidInputError(f"expected device cpu for PyAV, found {device!r}; decoder torchcodec can use a GPU")
    path = Path(path)
    check_readable(path)
    if is_sequence_path(path):
        return PyavReader(path, scan_image_sequence(path, fps=image_fps))
    scan, stream = open_scanned(path, threads=threads)
    if decoder == "torchcodec" or (decoder == "auto" and device != "cpu"):
        stream.close()
        return TorchcodecReader(path, scan, device=device, threads=threads)
    return PyavReader(path, scan, stream, threads=threads)
