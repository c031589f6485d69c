"""The strip of small frames that stands for a video on pages: taken from what was decoded for its crops anyway."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.recipe.previews import PreviewSpec
from pipeline.store.previews import Preview

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITIES = (80, 65, 50, 35)
MAX_PIXELS = 1 << 22
"""Of a strip that is opened: whatever else a store's bytes claim to be, memory stays bounded."""


class StripMaker:
    """Collects the small frames of one video, group by group.

    Parameters
    ----------
    spec : PreviewSpec
    """

    def __init__(self, spec: PreviewSpec) -> None:
        self._spec = spec
        self._small: list[tuple[float, Image]] = []

    def take(self, frames: np.ndarray, times_s: np.ndarray, untrue: np.ndarray | None = None) -> None:
        """Look at some decoded frames of the video.

        Parameters
        ----------
        frames : ndarray of shape (F, H, W, 3), uint8
        times_s : ndarray of shape (F,)
            When each is shown.
        untrue : ndarray of shape (F,), bool, optional
            Those that the decoder flagged as damaged: not shown.
        """
        from PIL import Image

        usable = np.arange(len(frames)) if untrue is None else np.flatnonzero(~untrue)
        for k in usable[_spread(len(usable), self._spec.num_frames)].tolist():
            picture = Image.fromarray(frames[k])
            width = min(self._spec.width_px, picture.width)
            height = max(1, min(round(picture.height * width / picture.width), 4 * width))
            small = picture.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
            self._small.append((float(times_s[k]), small))

    def finish(self) -> Preview | None:
        """Return the strip; None where no frame was decoded, or not even one fits into the bytes."""
        kept = sorted(self._small, key=lambda timed: timed[0])
        chosen = [kept[k] for k in _spread(len(kept), self._spec.num_frames).tolist()]
        while chosen:
            strip = _joined([small for _, small in chosen])
            for quality in QUALITIES:
                buffer = io.BytesIO()
                strip.save(buffer, "JPEG", quality=quality)
                if buffer.tell() <= self._spec.max_kib << 10:
                    return Preview(tuple(time_s for time_s, _ in chosen), buffer.getvalue())
            chosen = [chosen[k] for k in _spread(len(chosen), len(chosen) // 2).tolist()]
        return None


def _spread(count: int, wanted: int) -> np.ndarray:
    """Return the middles of `wanted` equal parts of ``range(count)``, each once."""
    if not count:
        return np.zeros(0, np.int64)
    return np.unique(((np.arange(wanted) + 0.5) / max(wanted, 1) * count).astype(np.int64))


def _joined(pictures: list[Image]) -> Image:
    from PIL import Image

    width, height = pictures[0].size
    strip = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * width, 0))
    return strip


def frames_of_strip(preview: Preview, times_s: Sequence[float]) -> list[bytes]:
    """Return the frames of a strip nearest to some times, each once, as JPEG; none where it cannot be shown.

    Parameters
    ----------
    preview : Preview
        From a store: its bytes are not believed.
    times_s : sequence of float
        Ascending.
    """
    from PIL import Image, UnidentifiedImageError

    count = len(preview.times_s)
    found = []
    try:
        with Image.open(io.BytesIO(preview.jpeg), formats=["JPEG"]) as strip:
            if not count or strip.width % count or strip.width * strip.height > MAX_PIXELS:
                return []
            width = strip.width // count
            for place in dict.fromkeys(int(np.abs(np.array(preview.times_s) - t).argmin()) for t in times_s):
                buffer = io.BytesIO()
                cut = strip.crop((place * width, 0, (place + 1) * width, strip.height))
                cut.save(buffer, "JPEG", quality=88)
                found.append(buffer.getvalue())
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError):
        return []
    return found
