"""Which frames of a video show what was filmed, and which what the decoder made up for lost data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from av.video.frame import PictureType, VideoFrame

from extract.decoding.frame_index import MISSING


class DecodedStream(Protocol):
    """What decodes a video from where it stands; :class:`extract.decoding.scan.FrameStream`."""

    num_refused: int
    num_refused_at_end: int
    refusal: str | None

    @property
    def early_end(self) -> str | None:
        """Why frames that should follow the last one cannot be had."""

    def next_frame(self) -> VideoFrame | None:
        """Return the next frame; None when there is none."""


class DamageSeenError(Exception):
    """A video shows that data are lost or broken while it is being read the fast way."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with the frames of one video, read from its beginning to its end."""

    untrue: np.ndarray
    """(num_frames,) bool: flagged by the decoder, or made from a frame that is flagged or lost."""
    num_flagged: int
    """Frames on which the decoder itself set its mark."""
    num_frames: int
    """Frames that the decoder gave."""
    num_refused: int = 0
    """Packets that the decoder refused, and went on after."""
    refusal: str = ""
    """What it said about the first of them."""

    @property
    def is_any(self) -> bool:
        """Whether any frame is not what was filmed, or lost."""
        return bool(self.num_flagged or self.num_refused)

    def __str__(self) -> str:
        parts = []
        if self.num_flagged:
            parts.append(f"the decoder flagged {self.num_flagged} of {self.num_frames} frames as damaged")
        if self.num_refused:
            packets = "packet" if self.num_refused == 1 else "packets"
            parts.append(f"the decoder refused {self.num_refused} {packets} and went on: {self.refusal}")
        following = int(self.untrue.sum()) - self.num_flagged
        if following > 0:
            parts.append(f"{following} frames are made from such")
        return "; ".join(parts)


@dataclass(frozen=True)
class FrameSurvey:
    """One pass over all frames of a video, in the order they come, without their pixels."""

    pts: np.ndarray
    """(n,) int64, `MISSING` where a frame has none."""
    dts: np.ndarray
    flagged: np.ndarray
    """(n,) bool: the decoder's own mark."""
    untrue: np.ndarray
    """(n,) bool: flagged, or made from a frame that is flagged or lost."""
    num_refused: int
    refusal: str
    early_end: str | None
    """Why nothing comes after the last frame, where more was to come."""

    def damage(self, numbers: np.ndarray | None = None, num_frames: int = 0) -> Damage:
        """Say which frames of the index are concerned.

        Parameters
        ----------
        numbers : ndarray of shape (n,), int64, optional
            The index's number of each frame, negative where it has none; None: they are counted.
        num_frames : int
            Length of the index, where `numbers` are given.
        """
        untrue = self.untrue
        if numbers is not None:
            untrue = np.zeros(num_frames, bool)
            untrue[numbers[self.untrue & (numbers >= 0) & (numbers < num_frames)]] = True
        return Damage(untrue, int(self.flagged.sum()), len(self.flagged), self.num_refused, self.refusal)


def survey(frames: DecodedStream) -> FrameSurvey:
    """Decode what is left of a stream and note the state of every frame.

    Parameters
    ----------
    frames : DecodedStream
        At its first frame.
    """
    rows: list[tuple[int, int, bool, bool, bool, int]] = []
    while (frame := frames.next_frame()) is not None:
        rows.append(
            (
                MISSING if frame.pts is None else frame.pts,
                MISSING if frame.dts is None else frame.dts,
                frame.is_corrupt,
                bool(frame.key_frame),
                frame.pict_type == PictureType.B,
                frames.num_refused,
            )
        )
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    pts, dts, refused = table[:, 0], table[:, 1], table[:, 5]
    flagged, is_key, is_b = table[:, 2:5].T.astype(bool)
    # packets refused at the very end cost no frame after them: the video breaks off there
    num_refused = frames.num_refused - frames.num_refused_at_end
    after_loss = np.diff(np.minimum(refused, num_refused), prepend=0) > 0
    untrue = _spread(flagged, is_key, is_b, after_loss)
    return FrameSurvey(pts, dts, flagged, untrue, num_refused, frames.refusal or "", frames.early_end)


def _spread(flagged: np.ndarray, is_key: np.ndarray, is_b: np.ndarray, after_loss: np.ndarray) -> np.ndarray:
    """Return which frames are flagged or made from one that is flagged or lost.

    Until the next key frame every frame may be made from the ones before;
    pictures between two others (B) are made from the one after them as well.
    """
    untrue = np.zeros(len(flagged), bool)
    is_tainted = is_b_tainted = False
    for k in range(len(flagged)):
        if is_key[k]:
            is_tainted = False
        elif after_loss[k]:
            is_tainted = True
        if not is_b[k]:
            is_b_tainted = False
            is_tainted |= bool(flagged[k])
        is_b_tainted |= bool(flagged[k])
        untrue[k] = flagged[k] or is_tainted or (is_b[k] and is_b_tainted)
    for k in range(len(flagged) - 2, -1, -1):
        untrue[k] |= is_b[k] and untrue[k + 1]
    return untrue
