"""Where decoded videos come from."""

from __future__ import annotations

from extract.decoding.decode import VideoReader
from extract.decoding.opening import open_reader


class DirectSource:
    """Decodes in this process: no protection against files that crash or hang a decoder. For tests and audits."""

    def __init__(self, num_workers: int = 1) -> None:
        self.num_workers = num_workers

    def open_reader(self, path: str) -> VideoReader:
        """Open one video."""
        return open_reader(path)
