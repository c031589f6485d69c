"""The writing thread: videos are counted, and a shard is committed when its last one is there."""

from __future__ import annotations

import queue
import threading
import time
from contextlib import ExitStack
from functools import partial

from extract.device.orderly_end import ThreadGroup
from extract.rates import Rates
from extract.run.preview_keeping import PreviewKeeper
from extract.run.shard_work import TargetShard, VideoWork
from extract.run.signals import Signals
from extract.run.tally import Tally
from pipeline.errors import AlreadyExistsError
from pipeline.events import Note, Progress, ShardFinished, VideoFailed
from pipeline.reports import SkippedVideo
from pipeline.status import VideoStatus

MAX_UNWRITTEN = 4
"""Complete shards that may wait for the writing thread."""


class WriteLine:
    """Takes finished videos and writes their shards; holds the claims of what is not written yet.

    Parameters
    ----------
    device : str
        Goes into the ledger.
    rates : Rates
    signals : Signals
    total : int
        Videos to come, for progress.
    previews : PreviewKeeper, optional
        Keeps small pictures of what a shard shows.
    """

    def __init__(
        self, device: str, rates: Rates, signals: Signals, total: int, previews: PreviewKeeper | None = None
    ) -> None:
        self.tally = Tally()
        self._previews = previews
        self._device, self._rates, self._signals, self._total = device, rates, signals, total
        self._complete: queue.Queue[TargetShard | None] = queue.Queue(maxsize=MAX_UNWRITTEN)
        self._lock = threading.Lock()
        self._claims: dict[int, ExitStack] = {}
        self.threads = ThreadGroup(partial(signals.guarded, self._loop), self._complete, "write", 1)
        self._started = time.perf_counter()

    def hold(self, part: TargetShard) -> None:
        """Enter a shard's claim, until it is written or dropped."""
        stack = ExitStack()
        stack.enter_context(part.claim)
        self._claims[id(part)] = stack

    def drop_rest(self) -> None:
        """Release the claims of what was not written."""
        for stack in list(self._claims.values()):
            stack.close()

    def finish_video(self, work: VideoWork) -> None:
        """Count a video of which all features are there; from whichever thread delivered the last."""
        work.finish()
        complete = []
        with self._lock:
            self.tally.num_videos += 1
            done = self.tally.num_videos
            for part in work.shards:
                part.remaining -= 1
                if part.remaining == 0:
                    complete.append(part)
        self._note_failures(work)
        elapsed = max(time.perf_counter() - self._started, 1e-9)
        self._signals.tell(Progress("extract", done, self._total, {"videos_per_s": round(done / elapsed, 2)}))
        for part in complete:  # waits while storage is slower than the networks
            self._signals.hand_over(self._complete, part)

    def _note_failures(self, work: VideoWork) -> None:
        for part in work.shards:
            row = part.rows[part.place[work.row]]
            assert row is not None
            if row.status != VideoStatus.OK and work.row not in self.tally.statuses:
                self.tally.statuses[work.row] = str(row.status)
                self.tally.skipped.append(
                    SkippedVideo(row=work.row, video_id=work.video_id, status=str(row.status), error=row.error)
                )
                self._signals.tell(VideoFailed("extract", work.row, work.video_id, str(row.status), row.error))

    def _loop(self) -> None:
        while (part := self._complete.get()) is not None:
            self._write(part)

    def _write(self, part: TargetShard) -> None:
        seconds = time.perf_counter() - part.started
        statuses: dict[str, int] = {}
        for row in part.rows:
            assert row is not None
            statuses[str(row.status)] = statuses.get(str(row.status), 0) + 1
        label = part.target.label
        try:
            if self._previews is not None:  # before the ledger's entry: a shard that is done has its pictures
                self._previews.save(part.task.rows)
            with self._rates.measure("write", len(part.rows)):
                part.writer.write(
                    part.task,
                    part.values,
                    part.valid,
                    part.geometry,
                    part.rows,
                    device=self._device,
                    seconds=seconds,
                    versions=part.made_with,
                )
            self.tally.shards_done += 1
            self.tally.crops += int(part.valid.sum())
            self.tally.num_bytes += part.num_stored_bytes
        except AlreadyExistsError:
            self.tally.shards_by_others += 1
            self._signals.tell(Note("extract", f"shard {part.task.shard} of {label}: another worker was first"))
        finally:
            self._claims.pop(id(part)).close()
        self._signals.tell(
            ShardFinished("extract", part.task.shard, label, len(part.rows), statuses, round(seconds, 3))
        )
