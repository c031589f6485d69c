"""Decoding behind a process boundary: a decoder that hangs or crashes costs one video, never the run.

A pool keeps a few worker processes. :meth:`DecodePool.open_reader` gives a
reader that looks like any other and works in one of them::

    with DecodePool(num_workers=2) as pool, pool.open_reader(path) as reader:
        decoded = reader.read(indices)        # frames arrive in shared memory, not copied

A worker that shows no sign of life for `timeout_s`, or dies, is replaced and
the video tried once more in the fresh process; then it is `unreadable`. Where
a process was killed from outside, the file is not to blame: `interrupted`.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from extract.decoding.decode import DecodedFrames, check_indices
from extract.decoding.frame_memory import FrameMemory
from extract.decoding.inspect import VideoInfo
from extract.decoding.sound import HeardCrops
from extract.decoding.worker_process import WorkerFailedError, WorkerProcess
from extract.places.cache import Lease
from extract.places.elsewhere import Elsewhere, Place
from extract.places.files import Files
from extract.sound.spectrogram import SoundSpec
from pipeline.compute.threads import num_cores
from pipeline.errors import InvalidInputError, SetupError, VideoError
from pipeline.status import VideoStatus

DEFAULT_TIMEOUT_S = 60.0
_SECONDS_PER_MIB = 2.0
_DEFAULT_OPENER = "extract.decoding.opening:open_reader"


class PooledReader:
    """A :class:`extract.decoding.decode.VideoReader` whose work is done in a worker process."""

    def __init__(self, pool: DecodePool, path: Place | str, options: dict[str, Any]) -> None:
        self._pool = pool
        self._lease = pool._lend(path)  # before a worker is taken: fetching may last
        self._path = os.fspath(self._lease.path)
        self._options = options
        self._limit_s = pool._limit_s(self._path)
        self._worker: WorkerProcess | None = None
        self.attempts = 1
        """1, or 2 when the first process failed."""
        try:
            self._worker = pool._take()
            facts, size = self._with_retry(self._open)
        except BaseException:
            self.close()
            raise
        self.info: VideoInfo = facts[0]
        self._frame_times_s: np.ndarray = facts[1]
        self.decoder_name: str = facts[2]
        self.decoder_version: str = facts[3]
        self.height, self.width = size

    @property
    def frame_times_s(self) -> np.ndarray:
        """(num_frames,) float64: when each frame is shown, the first at 0."""
        return self._frame_times_s

    @property
    def num_frames(self) -> int:
        """Number of frames."""
        return len(self._frame_times_s)

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        """Decode frames; see :meth:`extract.decoding.decode.PyavReader.read`. Without `out` nothing is copied."""
        indices = check_indices(indices, self.num_frames)
        decoded = self._with_retry(lambda: self._read(indices))
        if out is None:
            return decoded
        out[: len(decoded.frames)] = decoded.frames
        return replace(decoded, frames=out[: len(decoded.frames)])

    def read_sound(self, spans_s: np.ndarray, spec: SoundSpec) -> HeardCrops:
        """Return what is heard of some spans; see :func:`extract.decoding.sound.read_sound`."""
        heard: HeardCrops = self._with_retry(lambda: self._ask("sound", spans_s=spans_s, spec=spec)[1])
        return heard

    def _open(self) -> tuple[tuple, tuple[int, int]]:
        answer = self._ask("open", path=self._path, options=self._options)
        return answer[1], answer[2]

    def _read(self, indices: np.ndarray) -> DecodedFrames:
        assert self._worker is not None
        pool = self._pool
        shape = (len(indices), self.height, self.width, 3)
        num_bytes = math.prod(shape)
        if num_bytes == 0:
            return DecodedFrames(indices, np.empty(shape, np.uint8), self.info.stops_early)
        if num_bytes > pool._max_bytes:
            raise VideoError(
                f"its {shape[0]} wanted frames of {shape[2]}x{shape[1]} px take {num_bytes / 2**30:.1f} GiB, more than "
                f"the {pool._max_bytes / 2**30:.1f} GiB that one video may"
            )
        buffer = pool._memory.take(num_bytes)
        try:
            answer = self._worker.read_into(buffer, indices, timeout_s=pool.timeout_s, limit_s=self._limit_s)
            _, found, error, untrue, damage = _checked(answer)
        except BaseException:
            pool._memory.give_back(buffer)
            raise
        return DecodedFrames(found, pool._memory.lend(buffer, shape)[: len(found)], error, untrue, damage)

    def _ask(self, verb: str, **arguments: Any) -> tuple:
        assert self._worker is not None
        return self._pool._ask(self._worker, verb, self._limit_s, **arguments)

    def _with_retry(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except WorkerFailedError as failed:
            first = failed
        with self._pool._quarantine:
            try:
                self.attempts += 1
                if self.attempts > 2:
                    raise first
                self._replace_worker()
                if work != self._open:
                    self._open()
                return work()
            except WorkerFailedError as failed:
                self._replace_worker()
                raise _video_error(first, failed) from None

    def _replace_worker(self) -> None:
        assert self._worker is not None
        self._worker = self._pool._replace(self._worker)

    def close(self) -> None:
        """Give the worker back to the pool."""
        worker, self._worker = self._worker, None
        if worker is not None:
            self._pool._give_back(worker)
        self._lease.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class DecodePool:
    """Worker processes for decoding and inspecting videos. Safe to use from many threads.

    Parameters
    ----------
    num_workers : int
        Processes; 0 takes one a core.
    timeout_s : float
        A worker that decodes no frame and reads no packet for so long is ended. The whole work on one video may
        take ten times as long, plus two seconds for each MiB of the file.
    opener : str
        ``module:function`` that opens a reader in the worker.
    max_bytes : int
        Frames handed over for one video at most; 0: a third of the machine's memory over the number of workers.
    files : Files, optional
        Brings videos from elsewhere at hand; without it such are refused.
    **options
        Passed to :func:`extract.decoding.opening.open_reader`: decoder, device, threads, image_fps.
    """

    def __init__(
        self,
        num_workers: int = 0,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        opener: str = _DEFAULT_OPENER,
        max_bytes: int = 0,
        files: Files | None = None,
        **options: Any,
    ) -> None:
        if num_workers < 0 or timeout_s <= 0:
            raise InvalidInputError(f"expected workers >= 0 and a timeout > 0, found {num_workers} and {timeout_s}")
        self.num_workers = num_workers or num_cores()
        self.timeout_s = timeout_s
        self._options = options
        self._opener = opener
        self._files = files
        memory = _memory_bytes()
        self._max_bytes = max_bytes or max(memory // (3 * self.num_workers), 1 << 30)
        uses_torch = options.get("decoder") == "torchcodec" or options.get("device", "cpu") != "cpu"
        self._memory_limit = 0 if uses_torch else self._max_bytes + max(memory // (3 * self.num_workers), 4 << 30)
        self._memory = FrameMemory(max(memory // 16, 64 << 20))
        self._idle: queue.LifoQueue[WorkerProcess | None] = queue.LifoQueue()
        for _ in range(self.num_workers):
            self._idle.put(None)  # started when first needed
        self._workers: set[WorkerProcess] = set()
        self._lock = threading.Lock()
        self._quarantine = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._is_closed = False

    def open_reader(self, path: Place | str, **options: Any) -> PooledReader:
        """Open a video in a worker; waits for a free one. Close the reader to give it back.

        Raises
        ------
        VideoError
            If the video cannot be opened, or its decoder hangs or crashes twice.
        """
        return PooledReader(self, path, self._options | options)

    def submit(
        self,
        path: Place | str,
        plan: np.ndarray | Callable[[VideoInfo, np.ndarray], np.ndarray],
        **options: Any,
    ) -> Future[DecodedFrames]:
        """Decode frames in the background.

        Parameters
        ----------
        path : path
        plan : ndarray or callable
            Ascending frame numbers, or a function from (info, frame_times_s) to them, called in this process.

        Returns
        -------
        Future of DecodedFrames
            Raises VideoError for a bad video.
        """

        def work() -> DecodedFrames:
            with self.open_reader(path, **options) as reader:
                wanted = plan(reader.info, reader.frame_times_s) if callable(plan) else plan
                return reader.read(wanted)

        return self._threads().submit(work)

    def inspect(self, path: Place | str, *, image_fps: float = 30.0) -> VideoInfo:
        """Look into one video, with its sha256; never raises for a bad one."""
        try:
            with self._lend(path) as lease:
                return self._inspect(os.fspath(lease.path), image_fps)
        except VideoError as error:
            return VideoInfo(error=str(error), status=error.status)

    def _inspect(self, path: str, image_fps: float) -> VideoInfo:
        limit_s = self._limit_s(path)
        failures: list[WorkerFailedError] = []
        worker = self._take()
        try:
            for _ in range(2):
                try:
                    answer = self._ask(worker, "inspect", limit_s, path=path, image_fps=image_fps)
                    info: VideoInfo = answer[1]
                    return info
                except WorkerFailedError as failed:
                    failures.append(failed)
                    worker = self._replace(worker)
            error = _video_error(*failures)
            return VideoInfo(error=str(error), status=error.status)
        finally:
            self._give_back(worker)

    def inspect_all(self, paths: Iterable[Place], *, image_fps: float = 30.0) -> Iterator[VideoInfo]:
        """Look into many videos, as many at once as there are workers; yields in the order given."""
        yield from self._in_order(lambda path: self.inspect(path, image_fps=image_fps), paths)

    def _in_order(self, work: Callable[[Place], Any], paths: Iterable[Place]) -> Iterator[Any]:
        waiting: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        num_waiting = 0
        for path in paths:
            waiting.put(self._threads().submit(work, path))
            num_waiting += 1
            if num_waiting > 8 * self.num_workers:  # bounded: a list of millions must not become futures at once
                yield waiting.get().result()
                num_waiting -= 1
        for _ in range(num_waiting):
            yield waiting.get().result()

    def _lend(self, path: Place | str) -> Lease:
        if not isinstance(path, Elsewhere):
            return Lease(Path(path))
        if self._files is None:
            raise VideoError(f"cannot be fetched: {path}: nothing here says where from", VideoStatus.INTERRUPTED)
        return self._files.lend(path)

    def _ask(self, worker: WorkerProcess, verb: str, limit_s: float, **arguments: Any) -> tuple:
        return _checked(worker.ask(verb, timeout_s=self.timeout_s, limit_s=limit_s, **arguments))

    def _limit_s(self, path: str) -> float:
        try:
            num_bytes = os.stat(path).st_size
        except (OSError, ValueError):
            num_bytes = 0
        return 10 * self.timeout_s + _SECONDS_PER_MIB * num_bytes / 2**20

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.num_workers, thread_name_prefix="decode")
            return self._executor

    def _take(self) -> WorkerProcess:
        if self._is_closed:
            raise InvalidInputError("this pool of decoders is closed")
        worker = self._idle.get()
        if worker is not None:
            return worker
        try:
            return self._start()
        except BaseException:
            self._idle.put(None)  # the place is free again: others wait for it
            raise

    def _start(self) -> WorkerProcess:
        try:
            worker = WorkerProcess(opener=self._opener, max_bytes=self._max_bytes, memory_limit=self._memory_limit)
        except OSError as error:
            raise SetupError(f"expected to start a decoding process, found: {error.strerror or error}") from None
        with self._lock:
            self._workers.add(worker)
        return worker

    def _replace(self, worker: WorkerProcess) -> WorkerProcess:
        worker.kill()
        with self._lock:
            self._workers.discard(worker)
        return self._start()

    def _give_back(self, worker: WorkerProcess) -> None:
        if worker.process.poll() is None:
            self._idle.put(worker)
            return
        with self._lock:
            self._workers.discard(worker)
        self._idle.put(None)

    def close(self) -> None:
        """End all workers; work in flight fails."""
        self._is_closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            workers, self._workers = list(self._workers), set()
        for worker in workers:
            worker.stop()
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _video_error(first: WorkerFailedError, second: WorkerFailedError) -> VideoError:
    """Return what two failed processes say of a video: only if both failed over it, it is to blame."""
    if first.is_from_outside or second.is_from_outside:
        killed = second if second.is_from_outside else first
        return VideoError(f"{killed}; the next run tries this video again", VideoStatus.INTERRUPTED.value)
    return VideoError(f"{second}, in each of 2 processes", VideoStatus.UNREADABLE.value)


def _checked(answer: tuple) -> tuple:
    """Turn the answers that tell of an error into that error."""
    if answer[0] == "failed":
        raise VideoError(answer[1], answer[2])
    if answer[0] == "refused":
        raise InvalidInputError(answer[1])
    return answer


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 << 30
