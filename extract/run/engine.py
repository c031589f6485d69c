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
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extract.device.encode import Encoder
from extract.device.memory import DEFAULT_MEMORY_BYTES, ByteBudget
from extract.device.orderly_end import ThreadGroup, finish, stop_before_exit
from extract.rates import Rates
from extract.run.decode_line import DecodedFrames, DecodeLine, FlushBatches, VideoOpener
from extract.run.encode_line import EncodeLine
from extract.run.preview_keeping import PreviewKeeper
from extract.run.shard_work import TargetShard, VideoWork
from extract.run.signals import POLL_S, Signals
from extract.run.tally import Tally
from extract.run.write_line import WriteLine
from pipeline.events import Event, OnEvent

if TYPE_CHECKING:
    import torch

_WAIT_S = 1.0
"""How long to wait before shards that nobody could claim are tried again."""


@dataclass
class OpenShard:
    """A shard that this process is working on: its parts, and the works of its videos, those of one file together."""

    shard: int
    parts: Sequence[TargetShard]
    works: Iterable[tuple[VideoWork, ...]]


class Engine:
    """Runs shards through decoding, encoding and writing.

    Parameters
    ----------
    opener : VideoOpener
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
    previews : PreviewKeeper, optional
        Makes small pictures of what is decoded.
    """

    def __init__(
        self,
        opener: VideoOpener,
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
        previews: PreviewKeeper | None = None,
    ) -> None:
        self._on_stop = on_stop
        self._signals = signals = Signals(on_event, events)
        self._decoded: DecodedFrames = queue.SimpleQueue()
        self._memory = ByteBudget(memory_bytes, max_holders=opener.num_workers + 2 * num_threads)
        self._decode = DecodeLine(opener, self._decoded, self._memory, rates, signals, previews)
        self._encode = EncodeLine(encoder, device, self._decoded, self._memory, rates, signals, num_threads)
        self._write = WriteLine(str(device), rates, signals, total, previews)

    @property
    def tally(self) -> Tally:
        """What was done so far."""
        return self._write.tally

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
                for part in shard.parts:
                    self._write.hold(part)
                for works in shard.works:
                    for work in works:
                        work.on_done = self._write.finish_video
                    self._signals.put(self._decode.jobs, works)
            for group in self._groups:
                self._end(group)
        finally:
            finish(self.stop)
            self._signals.pass_events_on()
        self._signals.attend()

    @property
    def _groups(self) -> tuple[ThreadGroup, ...]:
        """In the order in which they end: each feeds the next."""
        return self._decode.threads, self._encode.threads, self._write.threads

    def stop(self, limit_s: float | None = None) -> None:
        """End all threads, write what is complete, drop the rest and release its claims. Safe to call again.

        Parameters
        ----------
        limit_s : float, optional
            How long to wait for each thread; None: until it has ended.
        """
        self._signals.stopping.set()
        self._on_stop()
        self._memory.close()
        self._decode.drain()
        for group in self._groups:
            group.end(limit_s)
        self._write.drop_rest()

    def _end(self, group: ThreadGroup) -> None:
        """Let threads finish what waits in their channel, and end."""
        for _ in group.ended:
            self._signals.put(group.channel, None)
        for ended in group.ended:
            while not ended.wait(POLL_S):
                self._signals.attend()

    def _wait_for_others(self) -> None:
        """Let some time pass in which batches that are not full are run, too."""
        self._decoded.put(FlushBatches())
        until = time.monotonic() + _WAIT_S
        while time.monotonic() < until:
            self._signals.attend()
            time.sleep(POLL_S)
