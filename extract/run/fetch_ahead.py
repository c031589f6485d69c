"""Fetching videos from elsewhere a little before their turn: decoding need not wait for the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from extract.places.elsewhere import Elsewhere
from extract.places.files import Files
from extract.run.shard_work import VideoWork
from pipeline.errors import PipelineError

NUM_AHEAD = 4


class FetchAhead:
    """A few threads that bring the next videos into the cache.

    Parameters
    ----------
    files : Files
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._threads: ThreadPoolExecutor | None = None

    def of(self, files: Sequence[tuple[VideoWork, ...]]) -> Iterator[tuple[VideoWork, ...]]:
        """Yield the rows of file after file, in their order; the files behind each are on their way."""
        for k, works in enumerate(files):
            for later, *_ in files[k + NUM_AHEAD : k + NUM_AHEAD + 1] if k else files[1 : NUM_AHEAD + 1]:
                if isinstance(later.job.path, Elsewhere) and later.needs_frames:
                    self._threads = self._threads or ThreadPoolExecutor(NUM_AHEAD, thread_name_prefix="fetch")
                    self._threads.submit(self._fetch, later.job.path)
            yield works

    def _fetch(self, place: Elsewhere) -> None:
        with suppress(PipelineError):  # whoever wants the video meets it again, and says so
            self._files.lend(place).close()

    def close(self) -> None:
        """Wait for what is on its way; the rest is not begun."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
