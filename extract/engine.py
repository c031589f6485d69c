"""The pipeline of one machine: decoding, encoding and writing at once, with a bounded number of videos between them.

::

    main thread ── jobs ──> decoding pool ── frames ──> encoding threads ── shards ──> writing thread
        ^  claims shards, keeps `slots` videos in flight, passes events on                 |
        └──────────────────────────── events, errors ──────────────────────────────────────┘

Memory is bounded by the slots (decoded videos) and by the shards between the
first and the last video in flight; it does not grow with the number of videos.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from extract.cutting import encode_video
from extract.encode import Encoder
from extract.rates import Rates
from extract.shard_work import TargetShard, VideoWork
from extract.upload import FrameUploader
from extract.video_job import VideoFrames, VideoJob, failed_video
from pipeline.errors import AlreadyExistsError, VideoError
from pipeline.events import Event, Note, OnEvent, Progress, ShardFinished, VideoFailed
from pipeline.reports import SkippedVideo
from pipeline.status import VideoStatus

if TYPE_CHECKING:
    import torch

_POLL_S = 0.05


class FrameSource(Protocol):
    """Whatever decodes videos: a pool of processes, or a thread in tests."""

    num_workers: int

    def submit(self, job: VideoJob) -> Future[VideoFrames]:
        """Start decoding; the future never fails for a bad video."""


@dataclass
class Tally:
    """What a run did."""

    shards_done: int = 0
    shards_by_others: int = 0
    crops: int = 0
    num_bytes: int = 0
    statuses: dict[int, str] = field(default_factory=dict)
    """Worst status of every video that is not ok."""
    num_videos: int = 0
    skipped: list[SkippedVideo] = field(default_factory=list)


@dataclass
class OpenShard:
    """A shard that this process is working on: its parts, and the works of its videos."""

    shard: int
    parts: Sequence[TargetShard]
    works: Sequence[VideoWork]


class Engine:
    """Runs shards through decoding, encoding and writing.

    Parameters
    ----------
    source : FrameSource
    encoder : Encoder
    device : torch.device
    num_threads : int
        Encoding threads; each computes with one core on a CPU. 1 on a GPU.
    rates : Rates
    on_event : callable
        Called from the thread that calls :meth:`run` only.
    total : int
        Videos to come, for progress.
    """

    def __init__(
        self,
        source: FrameSource,
        encoder: Encoder,
        device: torch.device,
        *,
        num_threads: int,
        rates: Rates,
        on_event: OnEvent,
        total: int,
    ) -> None:
        self.tally = Tally()
        self._source = source
        self._encoder = encoder
        self._device = device
        self._num_threads = num_threads
        self._rates = rates
        self._on_event = on_event
        self._total = total
        self._num_slots = source.num_workers + num_threads + 2
        self._slots = threading.Semaphore(self._num_slots)
        self._decoded: queue.SimpleQueue[tuple[VideoWork, Future[VideoFrames]] | None] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[TargetShard | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stacks: dict[int, ExitStack] = {}
        self._started = time.perf_counter()

    def run(self, shards: Iterable[OpenShard]) -> None:
        """Work until every shard is committed.

        Parameters
        ----------
        shards : iterable of OpenShard
            Taken one by one, when there is room: claims are made as late as possible.

        Raises
        ------
        BaseException
            What went wrong in any thread. Shards that were complete are
            written first, the others dropped and their claims released; the
            same holds for an interrupt.
        """
        encoders = [threading.Thread(target=self._encode_loop, name=f"encode-{i}") for i in range(self._num_threads)]
        writer = threading.Thread(target=self._write_loop, name="write")
        for thread in (*encoders, writer):
            thread.start()
        try:
            for shard in shards:
                self._open(shard)
                for work in shard.works:
                    self._take_slot()
                    self._submit(work)
            for _ in range(self._num_slots):  # every video has been cut into crops
                self._take_slot()
            for _ in encoders:
                self._decoded.put(None)
            for thread in encoders:
                self._join(thread)
            self._to_write.put(None)
            self._join(writer)
        finally:
            self._stopping.set()
            for _ in encoders:
                self._decoded.put(None)
            for thread in encoders:
                thread.join()
            self._to_write.put(None)
            writer.join()
            for stack in self._stacks.values():
                stack.close()
            self._pass_events_on()
        self._check()

    def _open(self, shard: OpenShard) -> None:
        for part in shard.parts:
            stack = ExitStack()
            stack.enter_context(part.claim)
            self._stacks[id(part)] = stack

    def _submit(self, work: VideoWork) -> None:
        work.on_done = self._finish_video
        if not work.needs_frames:
            future: Future[VideoFrames] = Future()
            future.set_result(work.without_frames())
        else:
            future = self._source.submit(work.job)
        future.add_done_callback(lambda done, work=work: self._decoded.put((work, done)))  # type: ignore[misc]

    # ---- encoding threads

    def _encode_loop(self) -> None:
        import torch

        if self._device.type == "cpu":
            torch.set_num_threads(1)
        uploader = FrameUploader(self._device)
        try:
            while (item := self._decoded.get()) is not None:
                work, future = item
                try:
                    if not self._stopping.is_set():
                        self._encode(work, _result_of(work, future), uploader)
                finally:
                    self._slots.release()
            while not self._stopping.is_set() and self._encoder.flush():
                pass
        except BaseException as err:
            self._fail(err)

    def _encode(self, work: VideoWork, decoded: VideoFrames, uploader: FrameUploader) -> None:
        self._rates.add("decode", decoded.seconds, len(decoded.frames))
        work.record_outcome(decoded)
        if len(decoded.frames):
            frames = uploader.upload(decoded.frames)
            encode_video(work, decoded, frames, self._encoder, self._rates)
        else:
            work.expect(1)
            work.settle(1)

    def _finish_video(self, work: VideoWork) -> None:
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
        self._events.put(Progress("extract", done, self._total, {"videos_per_s": round(done / elapsed, 2)}))
        for part in complete:
            self._to_write.put(part)

    def _note_failures(self, work: VideoWork) -> None:
        for part in work.shards:
            row = part.rows[part.place[work.row]]
            assert row is not None
            if row.status != VideoStatus.OK and work.row not in self.tally.statuses:
                self.tally.statuses[work.row] = str(row.status)
                self.tally.skipped.append(
                    SkippedVideo(row=work.row, video_id=work.video_id, status=str(row.status), error=row.error)
                )
                self._events.put(VideoFailed("extract", work.row, work.video_id, str(row.status), row.error))

    # ---- writing thread

    def _write_loop(self) -> None:
        try:
            while (part := self._to_write.get()) is not None:
                self._write(part)
        except BaseException as err:
            self._fail(err)

    def _write(self, part: TargetShard) -> None:
        seconds = time.perf_counter() - part.started
        statuses: dict[str, int] = {}
        for row in part.rows:
            assert row is not None
            statuses[str(row.status)] = statuses.get(str(row.status), 0) + 1
        try:
            with self._rates.measure("write", len(part.rows)):
                part.writer.write(
                    part.task,
                    part.values,
                    part.valid,
                    part.geometry,
                    part.rows,
                    device=str(self._device),
                    seconds=seconds,
                    versions=part.versions,
                )
            self.tally.shards_done += 1
            self.tally.crops += int(part.valid.sum())
            self.tally.num_bytes += part.num_stored_bytes
        except AlreadyExistsError:
            self.tally.shards_by_others += 1
            self._events.put(
                Note("extract", f"shard {part.task.shard} of {part.target.label}: another worker was first")
            )
        finally:
            self._stacks.pop(id(part)).close()
        self._events.put(
            ShardFinished("extract", part.task.shard, part.target.label, len(part.rows), statuses, round(seconds, 3))
        )

    # ---- the caller's thread

    def _take_slot(self) -> None:
        while not self._slots.acquire(timeout=_POLL_S):
            self._pass_events_on()
            self._check()
        self._pass_events_on()
        self._check()

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            thread.join(_POLL_S)
            self._pass_events_on()
            self._check()

    def _pass_events_on(self) -> None:
        while not self._events.empty():
            self._on_event(self._events.get())

    def _fail(self, err: BaseException) -> None:
        with self._lock:
            self._error = self._error or err
        self._stopping.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error


def _result_of(work: VideoWork, future: Future[VideoFrames]) -> VideoFrames:
    try:
        return future.result()
    except VideoError as error:
        return failed_video(work.job, str(error), error.status)
