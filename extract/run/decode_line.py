"""Decoding threads: a video in, its frames out in parts, as memory allows."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from extract.decoding.decode import VideoReader
from extract.device.memory import ByteBudget
from extract.device.orderly_end import ThreadGroup
from extract.places.elsewhere import Elsewhere
from extract.rates import Rates
from extract.run.preview_keeping import PreviewKeeper
from extract.run.shard_work import VideoWork
from extract.run.shared_reading import read_parts
from extract.run.signals import Signals
from extract.run.video_job import VideoFrames, read_video


class FlushBatches:
    """Goes through the queue of decoded frames when nothing new can be claimed: full batches may never come."""


DecodedFrames = queue.SimpleQueue[tuple[VideoWork, VideoFrames] | FlushBatches | None]


class VideoOpener(Protocol):
    """Whatever opens videos: a pool of processes, or this process itself in tests. Called from many threads."""

    num_workers: int

    def open_reader(self, path: Elsewhere | str) -> VideoReader:
        """Open one video; waits for a free worker."""


class DecodeLine:
    """Takes videos, those of one file together, and gives frames to `decoded`; one thread a worker of the opener."""

    def __init__(
        self,
        opener: VideoOpener,
        decoded: DecodedFrames,
        memory: ByteBudget,
        rates: Rates,
        signals: Signals,
        previews: PreviewKeeper | None = None,
    ) -> None:
        self.jobs: queue.Queue[tuple[VideoWork, ...] | None] = queue.Queue(maxsize=opener.num_workers)
        self._opener, self._decoded, self._memory = opener, decoded, memory
        self._rates, self._signals, self._previews = rates, signals, previews
        self.threads = ThreadGroup(partial(signals.guarded, self._loop), self.jobs, "decode", opener.num_workers)

    def drain(self) -> None:
        """Make room for the signals that end the threads."""
        while True:
            try:
                self.jobs.get_nowait()
            except queue.Empty:
                return

    def _loop(self) -> None:
        while (works := self.jobs.get()) is not None:
            if self._signals.stopping.is_set():
                continue
            for work, outcome in zip(works, self._outcomes(works), strict=True):
                self._rates.add("decode", outcome.seconds, 0)
                work.record_outcome(outcome)
                work.settle(1)

    def _outcomes(self, works: tuple[VideoWork, ...]) -> Sequence[VideoFrames]:
        first, max_bytes, open_reader = works[0], self._memory.limit // 2, self._opener.open_reader
        if not first.needs_frames:
            return [work.without_frames() for work in works]
        if first.is_part:
            jobs = [work.job for work in works]
            return read_parts(jobs, open_reader, lambda k, part: self._pass_on(works[k], part), max_bytes)
        return [read_video(first.job, open_reader, partial(self._pass_on, first), max_bytes)]

    def _pass_on(self, work: VideoWork, part: VideoFrames) -> None:
        """Pass frames on to the encoding threads, once there is memory for them."""
        self._memory.acquire(part.frames.nbytes)
        self._rates.add("decode", 0.0, len(part.frames))
        if self._previews is not None:
            self._previews.take(work.row, part)
        work.expect(1)
        self._decoded.put((work, part))
