"""Sound of a video file at given times on the video's own clock."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from extract.decoding import heartbeat
from extract.decoding.container import DECODE_ERRORS, describe_error, open_container
from extract.sound.spectrogram import SoundSpec, log_mel
from pipeline.errors import VideoError

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

MAX_SAMPLES = 1 << 27
"""Of all crops of a video together, before resampling: 46 minutes at 48 kHz."""
MIN_HEARD = 0.5
"""Share of a crop's time that must have sound."""
_SEEK_FROM_S = 20.0
"""Where the first crop begins later than this, what lies before is skipped."""
_SEEK_MARGIN_S = 2.0
NO_SOUND = "the file has no sound"
_FAILURES: tuple[type[BaseException], ...] = (VideoError, *DECODE_ERRORS)


@dataclass(frozen=True)
class HeardCrops:
    """What a network hears of some crops."""

    spectrograms: np.ndarray
    """(n, num_mels, num_steps) float32."""
    has_sound: np.ndarray
    """(n,) bool: False where less than half of the crop's time has sound."""
    error: str | None
    """Why some have none."""


def read_sound(path: Path, first_frame_s: float, spans_s: np.ndarray, spec: SoundSpec) -> HeardCrops:
    """Decode the sound of some crops.

    Parameters
    ----------
    path : Path
    first_frame_s : float
        The container's timestamp of the first video frame, which crop times count from.
    spans_s : ndarray of shape (n, 2)
        Start and end of each crop.
    spec : SoundSpec

    Returns
    -------
    HeardCrops
        Of a file without sound, or one whose sound cannot be decoded, none is heard; `error` says why.
    """
    heard = np.zeros((len(spans_s), spec.num_mels, spec.num_steps), np.float32)
    nothing = HeardCrops(heard, np.zeros(len(spans_s), bool), NO_SOUND)
    if not path.is_file() or not len(spans_s):
        return nothing
    try:
        with open_container(path) as container:
            if not container.streams.audio:
                return nothing
            pieces = _Pieces(spans_s, _rate(container.streams.audio[0]))
            error = pieces.fill(container, first_frame_s)
    except _FAILURES as failed:
        return HeardCrops(heard, nothing.has_sound, f"its sound cannot be decoded: {describe_error(failed)}")
    for k, samples in enumerate(pieces.samples):
        if pieces.heard[k]:
            heard[k] = log_mel(_resampled(samples, pieces.rate, spec.sample_rate_hz, spans_s[k]), spec)
        heartbeat.beat()
    if error is None and not pieces.heard.all():
        error = f"{int((~pieces.heard).sum())} crops lie where the file has no sound"
    return HeardCrops(heard, pieces.heard, error)


def _rate(stream: AudioStream) -> int:
    rate = int(stream.codec_context.sample_rate or 0)
    if not 1000 <= rate <= 768_000:
        raise VideoError(f"expected sound of 1 to 768 kHz, found {rate} Hz")
    return rate


class _Pieces:
    """The samples of each crop, filled while the sound goes by once."""

    def __init__(self, spans_s: np.ndarray, rate: int) -> None:
        self.rate = rate
        self._first = np.round(spans_s[:, 0] * rate).astype(np.int64)
        lengths = np.maximum(np.round(spans_s[:, 1] * rate).astype(np.int64) - self._first, 1)
        if lengths.sum() > MAX_SAMPLES:
            raise VideoError(f"expected crops with at most {MAX_SAMPLES} samples of sound together, found more")
        self.samples = [np.zeros(length, np.float32) for length in lengths.tolist()]
        self._counts = np.zeros(len(lengths), np.int64)

    @property
    def heard(self) -> np.ndarray:
        """(n,) bool."""
        lengths = np.array([len(samples) for samples in self.samples])
        return self._counts >= MIN_HEARD * lengths

    def fill(self, container: InputContainer, first_frame_s: float) -> str | None:
        """Take what belongs to the crops out of the sound; return why it ended early, None at its regular end."""
        start_s = float(self._first.min()) / self.rate
        if start_s > _SEEK_FROM_S:
            container.seek(math.floor((start_s + first_frame_s - _SEEK_MARGIN_S) * 1e6), backward=True)
        end = max(int(first) + len(samples) for first, samples in zip(self._first, self.samples, strict=True))
        next_sample: int | None = None
        try:
            for frame in _frames(container):
                heartbeat.beat()
                if frame.sample_rate != self.rate:
                    return "its sound changes its sample rate"
                if frame.pts is not None and frame.time_base is not None:
                    next_sample = round((float(frame.pts * frame.time_base) - first_frame_s) * self.rate)
                if next_sample is None:
                    next_sample = 0  # a stream without times begins with the video
                self._take(next_sample, _mono(frame))
                next_sample += frame.samples
                if next_sample >= end:
                    return None
        except DECODE_ERRORS as error:
            return f"its sound breaks off: {describe_error(error)}"
        return None

    def _take(self, first: int, samples: np.ndarray) -> None:
        for k, wanted in enumerate(self.samples):
            begin = int(self._first[k])
            low, high = max(first, begin), min(first + len(samples), begin + len(wanted))
            if low < high:
                wanted[low - begin : high - begin] = samples[low - first : high - first]
                self._counts[k] += high - low


def _frames(container: InputContainer) -> Iterator[AudioFrame]:
    yield from container.decode(container.streams.audio[0])


def _mono(frame: AudioFrame) -> np.ndarray:
    """Return the mean of the channels, (N,) float32 in -1..1."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype.kind == "u":
        values = (values.astype(np.float32) - 128) / 128
    elif values.dtype.kind == "i":
        values = values.astype(np.float32) / float(1 << (8 * values.dtype.itemsize - 1))
    return np.nan_to_num(values.astype(np.float32).mean(axis=0), posinf=0.0, neginf=0.0)


def _resampled(samples: np.ndarray, rate: int, wanted_hz: int, span_s: np.ndarray) -> np.ndarray:
    """Return a crop's sound at another rate: exactly as many samples as its time has."""
    from scipy.signal import resample_poly

    length = max(1, round(float(span_s[1] - span_s[0]) * wanted_hz))
    if rate != wanted_hz:
        common = math.gcd(rate, wanted_hz)
        samples = resample_poly(samples, wanted_hz // common, rate // common).astype(np.float32)
    out = np.zeros(length, np.float32)
    out[: min(length, len(samples))] = samples[:length]
    return out
