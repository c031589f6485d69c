"""Small real videos for tests, encoded with PyAV. Every frame carries its own number as black and white blocks.

>>> frames = numbered_frames(30)
>>> write_video(tmp_path / "a.mp4", frames)          # H.264, 30 fps
>>> frame_number(decoded_frame)                      # which one is it? survives lossy coding
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation

_BITS = 10
_TIME_BASE = Fraction(1, 90000)
_ENCODED: dict[bytes, bytes] = {}
"""Files that this test process has encoded already, by what they were made of."""
_EXACT = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INP  # without it every second column's colour is dropped


def numbered_frames(num_frames: int, *, height: int = 48, width: int = 80, seed: int = 0) -> np.ndarray:
    """Draw frames, shape (num_frames, height, width, 3) uint8: a moving square, and the number in the top quarter."""
    rng = np.random.default_rng(seed)
    colour, background = rng.integers(140, 255, 3), rng.integers(20, 90, 3)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    frames[:] = background
    size = max(min(height, width) // 4, 1)
    for k, frame in enumerate(frames):
        top = height // 4 + (height // 4 + k) % max(height - height // 4 - size, 1)
        left = (3 * k) % max(width - size, 1)
        frame[top : top + size, left : left + size] = colour
        for bit, (start, stop) in enumerate(_blocks(width)):
            frame[: height // 4, start:stop] = 255 if k >> bit & 1 else 0
    return frames


def frame_number(frame: np.ndarray) -> int:
    """Read the number back off a decoded frame of any size, shape (height, width, 3)."""
    height, width = frame.shape[:2]
    band = frame[height // 16 : max(height // 4 - height // 16, height // 16 + 1)].astype(np.float32).mean(axis=(0, 2))
    number = 0
    for bit, (start, stop) in enumerate(_blocks(width)):
        margin = (stop - start) // 4
        number |= int(band[start + margin : max(stop - margin, start + margin + 1)].mean() > 127) << bit
    return number


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: float = 30,
    times_s: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 2,
    pixel_aspect: Fraction | None = None,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    format: str | None = None,
) -> Path:
    """Encode frames, shape (n, height, width, 3) uint8, into a file; the suffix decides the container.

    `times_s` gives each frame its own time (variable frame rate); otherwise they are 1 / fps apart.
    The same frames with the same options are encoded once in a test process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if times_s is None:
        times_s = [k / fps for k in range(len(frames))]
    how = (frames.shape, frames.dtype.str, fps, list(times_s), codec, pix_fmt, gop, b_frames, pixel_aspect,
           sorted((options or {}).items()), sorted((container_options or {}).items()), format, path.suffix)  # fmt: skip
    digest = hashlib.sha256(repr(how).encode())
    digest.update(np.ascontiguousarray(frames))
    known = _ENCODED.get(digest.digest())
    if known is not None:
        path.write_bytes(known)
        return path
    with av.open(str(path), "w", format=format, options=dict(container_options or {})) as container:
        rate = Fraction(fps).limit_denominator(1001)
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if codec == "libx264":
            chosen = {"crf": "18", "preset": "veryfast", "bf": str(b_frames), "g": str(gop), "sc_threshold": "0"}
            stream.options = chosen | dict(options or {})
        elif options:
            stream.options = dict(options)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        time_base = {".gif": Fraction(1, 100), ".avi": 1 / rate}.get(path.suffix, _TIME_BASE)
        stream.time_base = time_base
        stream.codec_context.time_base = time_base
        for pixels, time_s in zip(frames, times_s, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt, interpolation=_EXACT)
            frame.pts, frame.time_base = round(time_s / time_base), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    _ENCODED[digest.digest()] = path.read_bytes()
    return path


def rotate_header(path: Path, degrees: int, *, mirrored: bool = False) -> Path:
    """Set an mp4's display matrix (patching its `tkhd` box): shown turned counterclockwise by 0, 90, 180 or 270."""
    a, b = {0: (1, 0), 90: (0, -1), 180: (-1, 0), 270: (0, 1)}[degrees % 360]
    c, d = -b, a
    if mirrored:
        a, b = -a, -b
    fixed = 1 << 16
    matrix = struct.pack(">9i", a * fixed, b * fixed, 0, c * fixed, d * fixed, 0, 0, 0, 1 << 30)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    content[start : start + 36] = matrix
    path.write_bytes(content)
    return path


def truncate(path: Path, fraction: float) -> Path:
    """Cut a file off; an mp4 written with `container_options={"movflags": "faststart"}` stays partly readable."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def write_text_named_mp4(path: Path) -> Path:
    """Write a text file with a video's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("This is not a video.\n" * 20)
    return path


def write_image_folder(folder: Path, frames: np.ndarray, *, suffix: str = ".png", stem: str = "frame") -> Path:
    """Write frames as frame1.png, frame2.png ... (so that natural order matters from ten on)."""
    folder.mkdir(parents=True, exist_ok=True)
    codec, pix_fmt = {".png": ("png", "rgb24"), ".jpg": ("mjpeg", "yuvj444p")}[suffix]
    for k, pixels in enumerate(frames):
        context = av.CodecContext.create(codec, "w")
        context.width, context.height = pixels.shape[1], pixels.shape[0]
        context.pix_fmt = pix_fmt
        context.time_base = Fraction(1, 25)
        image = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=pix_fmt)
        packets = context.encode(image) + context.encode(None)
        (folder / f"{stem}{k + 1}{suffix}").write_bytes(b"".join(bytes(packet) for packet in packets))
    return folder


def write_video_with_cover(path: Path, frames: np.ndarray, *, fps: int = 30) -> Path:
    """Write an mp4 whose *first* video stream is an attached cover picture."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = type(cover.disposition).attached_pic
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), format="rgb24")
        container.mux(cover.encode(picture.reformat(format="yuvj420p")))
        container.mux(cover.encode(None))
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def write_audio_only(path: Path) -> Path:
    """Write half a second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for k in range(8):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, 1024 * k
            container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path


def _blocks(width: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, width, _BITS + 1).round().astype(int)
    return [(int(edges[k]), int(edges[k + 1])) for k in range(_BITS)]
