"""A folder of images read as one video."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from extract.decoding.frame_index import FrameIndex
from extract.decoding.picture import picture_of
from pipeline.errors import VideoError

if TYPE_CHECKING:
    from extract.decoding.scan import VideoScan

_MAX_BAD_IMAGES = 8
"""Images tried at the start of a folder before it is given up."""

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def list_images(folder: Path) -> tuple[Path, ...]:
    """Return a folder's images in natural order (`frame2` before `frame10`); hidden files are left out.

    Raises
    ------
    VideoError
        If the folder cannot be read.
    """
    stem = None
    if names_images(folder):
        folder, stem = folder.parent, folder.name[:-1]
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".")
                and os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES
                and _is_file(entry)
            ]
    except OSError as error:
        raise VideoError(f"cannot be opened: {(error.strerror or str(error)).lower()}") from None
    if stem is not None:
        names = [name for name in names if _stem(name) == stem]
    elif len(others := [name for name in names if not _stem(name).startswith("flow_")]) > 0:
        names = others  # optical flow beside the pictures is a stream of its own, not more of them
    return tuple(folder / name for name in sorted(names, key=_natural_key))


def names_images(path: Path) -> bool:
    """Whether a path means the images of a folder whose names are a stem and a number: ``folder/flow_x_*``."""
    return path.name.endswith("*") and path.parent.is_dir() and not path.exists()


def is_sequence_path(path: Path) -> bool:
    """Whether a path is read as a sequence of images: a folder, or a stem of one."""
    return os.path.isdir(path) or names_images(path)


def stems_of(folder: Path) -> set[str]:
    """Return the stems of the images of a folder: their names before the number."""
    return {_stem(name) for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES}


def _stem(name: str) -> str:
    return os.path.splitext(name)[0].rstrip("0123456789")


def is_image_sequence(folder: Path) -> bool:
    """Whether a folder holds at least one image."""
    try:
        return bool(list_images(folder))
    except VideoError:
        return False


def scan_image_sequence(folder: Path, *, fps: float) -> VideoScan:
    """Index a folder of images; the first one that can be decoded decides the size.

    Raises
    ------
    VideoError
        If it holds no images, or none of the first few can be decoded.
    """
    from extract.decoding.scan import FrameStream, VideoScan

    files = list_images(folder)
    if not files:
        raise VideoError("expected a video or a folder of images, found a folder without images")
    reasons: list[str] = []
    for file in files[:_MAX_BAD_IMAGES]:
        try:
            with FrameStream(file, threads=1) as frames:
                first = frames.next_frame()
                if first is None:
                    raise VideoError(frames.early_end or "no picture")
                codec = frames.stream.codec_context.name
                picture = picture_of(first, frames.stream.sample_aspect_ratio)
            break
        except VideoError as error:
            reasons.append(f"{file.name}: {error}")
    else:
        raise VideoError(f"none of its first {len(reasons)} images can be decoded; {reasons[0]}")
    index = FrameIndex(times_s=np.arange(len(files)) / fps, duration_s=len(files) / fps, counted_by="files")
    return VideoScan(index, picture, f"images/{codec}", "image2", files=files)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file; a link that leads nowhere or round in a circle is none."""
    try:
        return entry.is_file()
    except OSError:
        return False


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]
