"""From a decoded frame to the RGB picture a viewer would see: square pixels, upright, one size for the whole video."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

_MIN_STRETCH, _MAX_STRETCH = 1.01, 8.0
"""Pixels closer to square are left alone (a container's rounding); stretches beyond are nonsense in the header."""


@dataclass(frozen=True)
class Picture:
    """How the frames of one video become pictures of one size.

    Pixels that are not square are made square by *stretching* the short side
    (bicubic), never by shrinking the other: 720x576 with pixels 16:15 becomes
    768x576. The rotation and mirroring of the container's display matrix are
    applied after that. Frames of another size inside the stream are scaled to
    the size of the first. Alpha is dropped, not blended; interlaced frames
    stay as they are; colours are converted with the stream's own matrix and
    range, and high dynamic range is not tone-mapped.
    """

    scaled_width: int
    """Width before rotation, after making pixels square."""
    scaled_height: int
    stored_width: int
    """Width of the first frame as the file holds it."""
    stored_height: int
    quarter_turns: int = 0
    """Counterclockwise quarter turns, 0-3."""
    mirrored: bool = False
    """Whether the picture is flipped left to right before it is turned."""

    @property
    def width(self) -> int:
        """Width as shown."""
        return self.scaled_height if self.quarter_turns % 2 else self.scaled_width

    @property
    def height(self) -> int:
        """Height as shown."""
        return self.scaled_width if self.quarter_turns % 2 else self.scaled_height

    @property
    def rotation_deg(self) -> int:
        """Counterclockwise rotation from stored to shown: 0, 90, 180 or -90."""
        return (0, 90, 180, -90)[self.quarter_turns]

    def turn(self, image: np.ndarray) -> np.ndarray:
        """Return a view of `image`, shape (scaled_height, scaled_width, 3), as it is shown: (height, width, 3)."""
        if self.mirrored:
            image = image[:, ::-1]
        return np.rot90(image, self.quarter_turns) if self.quarter_turns else image


def picture_of(first_frame: VideoFrame, pixel_aspect: Any) -> Picture:
    """Read a video's picture shape off its first frame.

    Parameters
    ----------
    first_frame : VideoFrame
        Decoded; its display matrix counts.
    pixel_aspect : Fraction or None
        Width of a pixel over its height.
    """
    width, height = stored = first_frame.width, first_frame.height
    ratio = float(pixel_aspect) if pixel_aspect else 1.0
    if _MIN_STRETCH <= ratio <= _MAX_STRETCH:
        width = max(round(width * ratio), 1)
    elif 1 / _MAX_STRETCH <= ratio <= 1 / _MIN_STRETCH:
        height = max(round(height / ratio), 1)
    quarter_turns, mirrored = _orientation(first_frame)
    return Picture(width, height, *stored, quarter_turns, mirrored)


class RgbConverter:
    """Converts the frames of one video; keeps FFmpeg's scaler between frames."""

    def __init__(self, picture: Picture) -> None:
        self.picture = picture
        self._reformatter = VideoReformatter()

    def write(self, frame: VideoFrame, out: np.ndarray) -> None:
        """Convert `frame` into `out`, a uint8 array of shape (height, width, 3)."""
        rgb = self._reformatter.reformat(
            frame,
            width=self.picture.scaled_width,
            height=self.picture.scaled_height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,  # FFmpeg's own default, hence what torchcodec makes too
            threads=1,
        )
        out[:] = self.picture.turn(rgb.to_ndarray())


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    side_data: Any
    try:
        everything = list(frame.side_data)
    except ValueError:  # PyAV does not know every kind that its FFmpeg hands out; the angle can be had without
        return round(frame.rotation / 90) % 4, False
    for side_data in everything:
        if side_data.type.name == "DISPLAYMATRIX":
            matrix = np.frombuffer(bytes(side_data)[:36], dtype=np.int32)  # rows (a, b, u), (c, d, v), (x, y, w)
            a, b, c, d = (float(matrix[k]) for k in (0, 1, 3, 4))
            mirrored = a * d - b * c < 0
            if mirrored:
                a, b = -a, -b
            if a == 0 and b == 0:
                return 0, False
            return round(math.degrees(math.atan2(-b, a)) / 90) % 4, mirrored
    return 0, False
