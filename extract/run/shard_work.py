"""What is being computed of one shard, until it can be written: rows fill up crop by crop."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from extract.crops.draw import VideoCrops, draw_crops, facts_of
from extract.decoding.container import check_readable
from extract.decoding.frame_picking import END_S, START_S, STRIDE, RowPart
from extract.places.elsewhere import Elsewhere, Place
from extract.run.network_record import NETWORK
from extract.run.video_job import CropRequest, PickedCrops, SoundRequest, VideoFrames, VideoJob, failed_video
from extract.sound.spectrogram import SoundSpec
from extract.targets import ResolvedTarget
from pipeline.errors import VideoError
from pipeline.status import VideoStatus

if TYPE_CHECKING:
    from extract.backbones import Backbone
    from pipeline.sets.ledger_entry import RowStatus

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass
class TargetShard:
    """The part of a shard that belongs to one target.

    Attributes
    ----------
    target : ResolvedTarget
    writer : FeatureWriter
        Of the target's feature set.
    task : ShardTask
        Which rows are wanted.
    claim : Claim
        Held until the shard is written or dropped.
    dim : int
        Channels of a feature.
    backbone : Backbone, optional
        What makes them.
    """

    target: ResolvedTarget
    writer: Any
    task: Any
    claim: Any
    dim: int
    backbone: Backbone | None = None
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        n, num_crops = len(self.task.rows), self.target.policy.num_crops
        self.values = np.zeros((n, num_crops, self.dim), np.float32)
        self.valid = np.zeros((n, num_crops), bool)
        self.geometry = np.zeros((n, num_crops, 9), np.float32)
        self.rows: list[RowStatus | None] = [None] * n
        self.place = {int(row): k for k, row in enumerate(self.task.rows)}
        self.remaining = n
        self.versions: dict[str, str] = {}

    @property
    def made_with(self) -> dict[str, str]:
        """What the ledger says of how it was made: versions, and how the network ran."""
        how = {} if self.backbone is None else {NETWORK: self.backbone.way}
        return self.versions | how

    @property
    def num_stored_bytes(self) -> int:
        """Bytes of values, mask and geometry in the store."""
        itemsize = np.dtype(self.target.spec.dtype).itemsize
        return self.values.size * itemsize + self.valid.nbytes + self.geometry.nbytes


class VideoWork:
    """One video on its way through decoding and encoding, for every target that wants it.

    Parameters
    ----------
    video : mapping
        Its catalogue row.
    place : Path, Elsewhere or str
        Where it lies.
    shards : sequence of TargetShard
        Those that want this row.
    """

    on_done: Callable[[VideoWork], None]
    """Called once, from whichever thread delivers the last feature; set before the first is announced."""

    def __init__(self, video: Mapping[str, Any], place: Place | str, shards: Sequence[TargetShard]) -> None:
        self.row = int(video["row"])
        self.video_id = str(video["video_id"])
        self.shards = tuple(shards)
        self.probe_error = video.get("probe_error")
        self._lock = threading.Lock()
        self._outstanding = 1  # the decoding itself: a video cannot finish before its outcome is known
        self._outcome: VideoFrames | None = None
        facts = facts_of(video)
        self.crops: dict[str, VideoCrops] = {
            s.target.crops: draw_crops(s.target.policy, self.video_id, facts) for s in self.shards
        }
        self.job = VideoJob(
            row=self.row,
            video_id=self.video_id,
            path=place if isinstance(place, Elsewhere) else str(place),
            part=RowPart() if facts is None else RowPart.of(video),
            num_bytes=video.get("bytes"),
            size=None if facts is None else (facts.width, facts.height),
            sha256=video.get("sha256"),
            looked_at=math.inf if video.get("added_at") is None else video["added_at"].timestamp(),
            requests=tuple(r for name in self.crops if (r := self._request(name)) is not None),
            sounds=tuple(
                self._sound(name, sound)
                for name, sound in dict.fromkeys((s.target.crops, s.target.sound) for s in self.shards)
                if sound is not None
            ),
        )

    @property
    def needs_frames(self) -> bool:
        """Whether any crop is planned."""
        wanted = [r.numbers for r in self.job.requests] + [r.numbers for r in self.job.sounds]
        return any(len(numbers) for numbers in wanted)

    @property
    def is_part(self) -> bool:
        """Whether its row is a part of a file."""
        return self.job.part.num_frames is not None

    def without_frames(self) -> VideoFrames:
        """Return the outcome of a video that is not opened: the catalogue could not read it, or nothing is planned."""
        if self.probe_error is None:
            return failed_video(self.job, "", VideoStatus.OK)
        if isinstance(self.job.path, Elsewhere):
            is_missing = self.probe_error.startswith("missing")
            return failed_video(
                self.job, self.probe_error, VideoStatus.MISSING if is_missing else VideoStatus.UNREADABLE
            )
        try:
            check_readable(Path(self.job.path))
        except VideoError as error:  # gone since it was catalogued, or still not there
            if error.status == VideoStatus.MISSING:
                return failed_video(self.job, str(error), error.status)
        return failed_video(self.job, self.probe_error, VideoStatus.UNREADABLE)

    def _sound(self, crops: str, sound: SoundSpec) -> SoundRequest:
        drawn = self.crops[crops]
        numbers = np.flatnonzero(drawn.valid)
        boxes = drawn.geometry[numbers].astype(np.float64)
        return SoundRequest(crops, sound, numbers, boxes[:, [START_S, END_S]], boxes[:, STRIDE] < 0)

    def _request(self, crops: str) -> CropRequest | None:
        seeing = [s.target for s in self.shards if s.target.crops == crops and s.target.sound is None]
        if not seeing:
            return None
        drawn = self.crops[crops]
        numbers = np.flatnonzero(drawn.valid)
        return CropRequest(
            crops=crops,
            policy=seeing[0].policy,
            numbers=numbers,
            geometry=drawn.geometry[numbers],
            positions=tuple(sorted({p for t in seeing for p in t.positions})),
            with_previous=any(t.with_previous for t in seeing),
        )

    def expect(self, num_features: int) -> None:
        """Announce features that will be delivered; call before any of them can be."""
        with self._lock:
            self._outstanding += num_features

    def deliver(self, shard: TargetShard, number: int, feature: np.ndarray) -> None:
        """Take the feature of one crop for one target."""
        k = shard.place[self.row]
        shard.values[k, number] = feature
        shard.valid[k, number] = True
        self.settle(1)

    def settle(self, num_features: int = 0) -> None:
        """Count delivered features; finish the video when none is outstanding."""
        with self._lock:
            self._outstanding -= num_features
            is_done = self._outstanding == 0
        if is_done:
            self.on_done(self)

    def record_outcome(self, outcome: VideoFrames) -> None:
        """Keep what decoding said, for the row's status."""
        self._outcome = outcome

    def finish(self) -> None:
        """Write geometry and status of this row into its shards; all features are there."""
        from pipeline.sets.ledger_entry import RowStatus

        outcome = self._outcome
        assert outcome is not None
        for shard in self.shards:
            k = shard.place[self.row]
            drawn = self.crops[shard.target.crops]
            shard.geometry[k] = drawn.geometry
            if outcome.status == VideoStatus.INTERRUPTED:  # what had been decoded by then is done again with the rest
                shard.valid[k], shard.values[k] = False, 0.0
            num_bad = _mask_non_finite(shard.values[k], shard.valid[k], shard.target.spec.dtype)
            status, error = row_status(drawn, shard.valid[k], outcome, num_bad)
            if shard.target.sound is not None and status == VideoStatus.OK and outcome.sound_error:
                num_valid, num_planned = int(shard.valid[k].sum()), int(drawn.valid.sum())
                status = str(VideoStatus.PARTIAL)
                error = f"{num_valid} of {num_planned} crops are heard: {outcome.sound_error}"
            shard.rows[k] = RowStatus(
                row=self.row,
                status=status,
                error=error,
                seconds=outcome.seconds,
                num_valid=int(shard.valid[k].sum()),
            )
            shard.versions.update(outcome.versions)


def row_status(drawn: VideoCrops, valid: np.ndarray, outcome: VideoFrames, num_bad: int) -> tuple[str, str]:
    """Return status and error of a row.

    What hides most comes first: no frames, features that are no numbers, a
    decoding that broke off, a video shorter than a crop.
    """
    num_valid, num_planned = int(valid.sum()), int(drawn.valid.sum())
    if outcome.status in (VideoStatus.UNREADABLE, VideoStatus.MISSING, VideoStatus.INTERRUPTED):
        return str(outcome.status), outcome.error or ""
    if num_bad:
        return str(
            VideoStatus.NON_FINITE
        ), f"{num_bad} of {num_planned} crops gave features that are not finite numbers"
    if outcome.status in (VideoStatus.PARTIAL, VideoStatus.DAMAGED):
        return str(outcome.status), f"{num_valid} of {num_planned} crops are valid: {outcome.error or ''}"
    if drawn.is_short:
        what = "its crops are masked (short: reject)" if num_planned == 0 else "frames are repeated"
        return str(VideoStatus.TOO_SHORT), f"shorter than one crop; {what}"
    return str(VideoStatus.OK), ""


def _mask_non_finite(values: np.ndarray, valid: np.ndarray, dtype: str) -> int:
    limit = FLOAT16_MAX if dtype == "float16" else float(np.finfo(np.float32).max)
    with np.errstate(invalid="ignore"):
        bad = valid & ~(np.abs(values) <= limit).all(axis=1)
    valid[bad] = False
    values[~valid] = 0.0
    return int(bad.sum())


def picked_for(target: ResolvedTarget, picked: PickedCrops) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the frames (n, T) that one target sees out of those picked for all targets of its crop set."""
    columns = [picked.request.positions.index(p) for p in target.positions]
    previous = None
    if target.with_previous and picked.previous is not None:
        previous = picked.previous[:, columns]
    return picked.current[:, columns], previous
