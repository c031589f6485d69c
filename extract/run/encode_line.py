"""Encoding threads: frames in, crops cut and run through the networks."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from extract.device.encode import Encoder
from extract.device.memory import ByteBudget
from extract.device.orderly_end import ThreadGroup
from extract.rates import Rates
from extract.run.cutting import cut_video
from extract.run.decode_line import DecodedFrames, FlushBatches
from extract.run.signals import Signals
from pipeline.compute.frame_uploader import FrameUploader
from pipeline.compute.memory import keep_freed_memory
from pipeline.compute.threads import compute_alone_on_a_core

if TYPE_CHECKING:
    import torch


class EncodeLine:
    """Takes frames from `decoded`; each of its threads computes with one core on a CPU."""

    def __init__(
        self,
        encoder: Encoder,
        device: torch.device,
        decoded: DecodedFrames,
        memory: ByteBudget,
        rates: Rates,
        signals: Signals,
        num_threads: int,
    ) -> None:
        self._encoder, self._device, self._decoded = encoder, device, decoded
        self._memory, self._rates, self._signals = memory, rates, signals
        if device.type == "cpu":
            keep_freed_memory()  # before there are threads
        self.threads = ThreadGroup(partial(signals.guarded, self._loop), decoded, "encode", num_threads)

    def _loop(self) -> None:
        if self._device.type == "cpu":
            compute_alone_on_a_core()
        uploader = FrameUploader(self._device)
        while (item := self._decoded.get()) is not None:
            if isinstance(item, FlushBatches):
                self._flush()
                continue
            work, part = item
            try:
                if not self._signals.stopping.is_set():
                    cut_video(work, part, uploader.upload(part.frames), self._encoder, self._rates)
                    work.settle(1)
            finally:
                self._memory.release(part.frames.nbytes)
            del item, part
        self._flush()

    def _flush(self) -> None:
        while not self._signals.stopping.is_set() and self._encoder.flush():
            pass
