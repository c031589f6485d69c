"""Where decoded videos come from."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from extract.decode import open_reader
from extract.decode_pool import DEFAULT_TIMEOUT_S, DecodePool
from extract.video_job import VideoFrames, VideoJob, read_video


class ThreadSource:
    """Decodes in threads of this process: no protection against files that crash or hang a decoder."""

    def __init__(self, num_workers: int = 1) -> None:
        self.num_workers = num_workers
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def submit(self, job: VideoJob) -> Future[VideoFrames]:
        """Decode one video."""
        return self._pool.submit(read_video, job, open_reader)

    def close(self) -> None:
        """Drop what has not begun; wait for the rest."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ProcessSource(ThreadSource):
    """Decodes in worker processes: a file that crashes or hangs its decoder costs that video alone."""

    def __init__(self, num_workers: int = 1, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        super().__init__(num_workers)
        self._processes = DecodePool(num_workers, timeout_s=timeout_s)

    def submit(self, job: VideoJob) -> Future[VideoFrames]:
        """Decode one video."""
        return self._pool.submit(read_video, job, self._processes.open_reader)

    def close(self) -> None:
        """Drop what has not begun; wait for the rest; end the processes."""
        super().close()
        self._processes.close()
