"""What a video file really holds, found by demultiplexing it: the facts of a catalogue row."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from extract.decoding import heartbeat
from extract.decoding.container import check_readable
from extract.decoding.frame_index import uneven_steps_us
from extract.decoding.image_sequence import is_sequence_path, scan_image_sequence
from extract.decoding.scan import VideoScan, scan_video
from pipeline.errors import VideoError
from pipeline.status import VideoStatus

_HASH_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class VideoInfo:
    """Facts about one video. Sizes are in pixels, after rotation and after making pixels square."""

    num_frames: int = 0
    """Frames a decoder delivers, not what a header claims."""
    duration_s: float = 0.0
    """From the first frame to the end of the last one."""
    fps: float = 0.0
    """num_frames / duration_s; 0 if unknown."""
    width: int = 0
    height: int = 0
    rotation_deg: int = 0
    """Counterclockwise rotation of the stored frames to the shown ones: 0, 90, 180, -90."""
    codec: str = ""
    start_s: float = 0.0
    """The container's timestamp of the first frame."""
    frame_steps_us: tuple[int, ...] | None = None
    """From each frame to the next, where they are not evenly spaced; None where they are."""
    counted_by: str = "demuxing"
    """demuxing, decoding or files."""
    stops_early: str | None = None
    """For a video that can be decoded only up to `num_frames`: why."""
    error: str | None = None
    """Why it cannot be decoded at all; None for a readable video."""
    status: str = VideoStatus.OK.value
    """ok, partial (`stops_early`), damaged, unreadable or missing."""
    damage: str | None = None
    """What is wrong with its frames, where all of them were decoded to count them."""
    num_bytes: int | None = None
    sha256: str | None = None


def inspect_video(path: str | os.PathLike[str], *, hash_bytes: bool = False, image_fps: float = 30.0) -> VideoInfo:
    """Look into a video file or a folder of images. Never raises for a bad file.

    Its packets are read once and only the first few frames are decoded, unless
    something looks wrong (broken packets, packed frames, raw streams, fewer
    packets than the header says): then every frame is decoded, so that
    `num_frames` counts what there is.

    Parameters
    ----------
    path : path
    hash_bytes : bool
        Also compute the sha256 of the file (before demultiplexing, which then
        finds the bytes in the page cache). For a folder: of the list of names
        and hashes of its images.
    image_fps : float
        Frame rate of image folders, which have none of their own.

    Returns
    -------
    VideoInfo
        With `error` set when it cannot be decoded.
    """
    path = Path(path)
    found = VideoInfo()
    try:
        stat = check_readable(path)
        if is_sequence_path(path):
            scan = scan_image_sequence(path, fps=image_fps)
            if hash_bytes:
                digest, num_bytes = hash_image_sequence(scan.files)
                found = replace(found, num_bytes=num_bytes, sha256=digest)
        else:
            found = replace(found, num_bytes=stat.st_size, sha256=hash_file(path) if hash_bytes else None)
            scan = scan_video(path)
    except VideoError as error:
        return replace(found, error=str(error), status=error.status)
    return info_of(scan, found)


def info_of(scan: VideoScan, found: VideoInfo | None = None) -> VideoInfo:
    """Turn a scan into facts, added to those already known of the file."""
    status = VideoStatus.PARTIAL if scan.index.error else VideoStatus.OK
    if scan.damage is not None:
        status = VideoStatus.DAMAGED
    return replace(
        found or VideoInfo(),
        num_frames=scan.index.num_frames,
        duration_s=scan.index.duration_s,
        fps=scan.index.num_frames / scan.index.duration_s if scan.index.duration_s > 0 else 0.0,
        width=scan.picture.width,
        height=scan.picture.height,
        rotation_deg=scan.picture.rotation_deg,
        codec=scan.codec,
        start_s=scan.index.start_s,
        frame_steps_us=uneven_steps_us(scan.index),
        counted_by=scan.index.counted_by,
        stops_early=scan.index.error,
        status=status.value,
        damage=None if scan.damage is None else str(scan.damage),
    )


def hash_file(path: Path) -> str:
    """Return the sha256 of a file's bytes in hexadecimal.

    Raises
    ------
    VideoError
        If it cannot be read to its end.
    """
    try:
        digest = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
                heartbeat.beat()
        return digest.hexdigest()
    except OSError as error:
        raise VideoError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None


def hash_image_sequence(files: tuple[Path, ...]) -> tuple[str, int]:
    """Return one sha256 over the names and contents of a folder's images, and the sum of their sizes."""
    digest, num_bytes = hashlib.sha256(), 0
    for file in files:
        digest.update(os.fsencode(file.name) + b"\0" + hash_file(file).encode() + b"\n")
        num_bytes += file.stat().st_size
    return digest.hexdigest(), num_bytes
