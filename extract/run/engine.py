"""The pipeline of one machine: decoding, encoding and writing at once, with a bounded number of videos between them.

::

    main thread ── videos ──> decoding threads ── frames ──> encoding threads ── shards ──> writing thread
        ^  claims shards,        one decoding process          cut, batch, run the             |
        |  passes events on      each                          networks                        |
        └──────────────────────────────── events, errors ──────────────────────────────────────┘

Memory is bounded by a budget for decoded frames and by the shards between the
first and the last video in flight; it does not grow with the number of videos.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from extract.decoding.decode import VideoReader
from extract.device.encode import Encoder
from extract.device.memory import DEFAULT_MEMORY_BYTES, ByteBudget
from extract.device.orderly_end import ThreadGroup, finish, stop_before_exit
from extract.places.elsewhere import Elsewhere
from extract.rates import Rates
from extract.run.cutting import encode_video
from extract.run.shard_work import TargetShard, VideoWork
from extract.run.shared_reading import read_parts
from extract.run.tally import Tally
from extract.run.video_job import VideoFrames, read_video
from pipeline.compute.frame_uploader import FrameUploader
from pipeline.compute.memory import keep_freed_memory
from pipeline.compute.threads import compute_alone_on_a_core
from pipeline.errors import AlreadyExistsError
from pipeline.events import Event, Note, OnEvent, Progress, ShardFinished, VideoFailed
from pipeline.reports import SkippedVideo
from pipeline.status import VideoStatus

if TYPE_CHECKING:
    import torch

_POLL_S = 0.05
_WAIT_S = 1.0
"""How long to wait before shards that nobody could claim are tried again."""
MAX_UNWRITTEN = 4
"""Complete shards that may wait for the writing thread."""


class FrameSource(Protocol):
    """Whatever opens videos: a pool of processes, or this process itself in tests. Called from many threads."""

    num_workers: int

    def open_reader(self, path: Elsewhere | str) -> VideoReader:
        """Open one video; waits for a free worker."""


@dataclass
class OpenShard:
    """A shard that this process is working on: its parts, and the works of its videos, those of one file together."""

    shard: int
    parts: Sequence[TargetShard]
    works: Iterable[tuple[VideoWork, ...]]


class _Flush:
    """Goes through the queue of decoded frames when nothing new can be claimed: full batches may never come."""


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
    events : queue, optional
        Where other threads may put events to be passed on.
    memory_bytes : int
        Decoded frames that may wait at once.
    on_stop : callable
        Makes what decoding threads wait for end soon.
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
        events: queue.SimpleQueue[Event] | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self.tally = Tally()
        self._source = source
        self._encoder = encoder
        self._device = device
        self._num_threads = num_threads
        self._rates = rates
        self._on_event = on_event
        self._total = total
        self._jobs: queue.Queue[tuple[VideoWork, ...] | None] = queue.Queue(maxsize=source.num_workers)
        self._decoded: queue.SimpleQueue[tuple[VideoWork, VideoFrames] | _Flush | None] = queue.SimpleQueue()
        self._memory = ByteBudget(memory_bytes, max_holders=source.num_workers + 2 * num_threads)
        self._to_write: queue.Queue[TargetShard | None] = queue.Queue(maxsize=MAX_UNWRITTEN)
        self._events = events if events is not None else queue.SimpleQueue()
        self._on_stop = on_stop
        self._error: BaseException | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._stacks: dict[int, ExitStack] = {}
        self._decoders = ThreadGroup(
            partial(self._guarded, self._decode_loop), self._jobs, "decode", source.num_workers
        )
        self._encoders = ThreadGroup(partial(self._guarded, self._encode_loop), self._decoded, "encode", num_threads)
        self._writers = ThreadGroup(partial(self._guarded, self._write_loop), self._to_write, "write", 1)
        self._started = time.perf_counter()

    def run(self, shards: Iterable[OpenShard | None]) -> None:
        """Work until every shard is committed.

        Parameters
        ----------
        shards : iterable of OpenShard or None
            Taken one by one, when there is room: claims are made as late as possible. None says that all that is left
            is with other workers, and is to be asked again. What is open is finished meanwhile: those workers may be
            waiting for it.

        Raises
        ------
        BaseException
            What went wrong in any thread. Shards that were complete are
            written first, the others dropped and their claims released; the
            same holds for an interrupt.
        """
        stop_before_exit(self)
        try:
            for group in self._groups:
                group.start()
            for shard in shards:
                if shard is None:
                    self._wait_for_others()
                    continue
                self._open(shard)
                for works in shard.works:
                    self._put(works)
            for group in self._groups:
                self._end(group)
        finally:
            finish(self.stop)
            self._pass_events_on()
        self._check()

    @property
    def _groups(self) -> tuple[ThreadGroup, ...]:
        """In the order in which they end: each feeds the next."""
        return self._decoders, self._encoders, self._writers

    def stop(self, limit_s: float | None = None) -> None:
        """End all threads, write what is complete, drop the rest and release its claims. Safe to call again.

        Parameters
        ----------
        limit_s : float, optional
            How long to wait for each thread; None: until it has ended.
        """
        self._stopping.set()
        self._on_stop()
        self._memory.close()
        self._drain_jobs()
        for group in self._groups:
            group.end(limit_s)
        for stack in list(self._stacks.values()):
            stack.close()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as err:
            self._fail(err)

    def _end(self, group: ThreadGroup) -> None:
        """Let threads finish what waits in their channel, and end."""
        for _ in group.ended:
            self._put_into(group.channel, None)
        for ended in group.ended:
            while not ended.wait(_POLL_S):
                self._pass_events_on()
                self._check()

    def _wait_for_others(self) -> None:
        """Let some time pass in which batches that are not full are run, too."""
        self._decoded.put(_Flush())
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            self._pass_events_on()
            self._check()
            time.sleep(_POLL_S)

    def _drain_jobs(self) -> None:
        """Make room for the signals that end the decoding threads."""
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                return

    def _open(self, shard: OpenShard) -> None:
        for part in shard.parts:
            stack = ExitStack()
            stack.enter_context(part.claim)
            self._stacks[id(part)] = stack

    def _put(self, works: tuple[VideoWork, ...]) -> None:
        for work in works:
            work.on_done = self._finish_video
        self._put_into(self._jobs, works)

    def _put_into(self, channel: Any, item: Any) -> None:
        while True:
            self._pass_events_on()
            self._check()
            try:
                channel.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    # ---- decoding threads

    def _decode_loop(self) -> None:
        while (works := self._jobs.get()) is not None:
            if self._stopping.is_set():
                continue
            for work, outcome in zip(works, self._outcomes(works), strict=True):
                self._rates.add("decode", outcome.seconds, 0)
                work.record_outcome(outcome)
                work.settle(1)

    def _outcomes(self, works: tuple[VideoWork, ...]) -> Sequence[VideoFrames]:
        first, max_bytes = works[0], self._memory.limit // 2
        if not first.needs_frames:
            return [work.without_frames() for work in works]
        if first.is_part:
            jobs = [work.job for work in works]
            return read_parts(
                jobs, self._source.open_reader, lambda k, part: self._hand_over(works[k], part), max_bytes
            )
        return [read_video(first.job, self._source.open_reader, partial(self._hand_over, first), max_bytes)]

    def _hand_over(self, work: VideoWork, part: VideoFrames) -> None:
        """Pass frames on to the encoding threads, once there is memory for them."""
        self._memory.acquire(part.frames.nbytes)
        self._rates.add("decode", 0.0, len(part.frames))
        work.expect(1)
        self._decoded.put((work, part))

    # ---- encoding threads

    def _encode_loop(self) -> None:
        if self._device.type == "cpu":
            compute_alone_on_a_core()
            keep_freed_memory()
        uploader = FrameUploader(self._device)
        while (item := self._decoded.get()) is not None:
            if isinstance(item, _Flush):
                self._flush()
                continue
            work, part = item
            try:
                if not self._stopping.is_set():
                    encode_video(work, part, uploader.upload(part.frames), self._encoder, self._rates)
                    work.settle(1)
            finally:
                self._memory.release(part.frames.nbytes)
            del item, part
        self._flush()

    def _flush(self) -> None:
        while not self._stopping.is_set() and self._encoder.flush():
            pass

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
            self._hand_to_writer(part)

    def _hand_to_writer(self, part: TargetShard) -> None:
        """Pass a shard on; waits while storage is slower than the networks, unless the run is being stopped."""
        while True:
            try:
                self._to_write.put(part, timeout=_POLL_S)
                return
            except queue.Full:
                if self._stopping.is_set():
                    return

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
        while (part := self._to_write.get()) is not None:
            self._write(part)

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
