"""Videos whose frames lie decoded in memory: what extraction makes of them is its rate without decoding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from extract.decoding.decode import DecodedFrames
from extract.decoding.inspect import VideoInfo
from extract.decoding.opening import open_reader


class DecodedReader:
    """A reader that only looks up."""

    decoder_name, decoder_version = "memory", "1"

    def __init__(self, info: VideoInfo, times_s: np.ndarray, frames: np.ndarray) -> None:
        self.info, self.frame_times_s, self._frames = info, times_s, frames
        self.num_frames, self.height, self.width = frames.shape[:3]

    def read(self, indices: np.ndarray, out: np.ndarray | None = None) -> DecodedFrames:
        """Return the frames at `indices`."""
        frames = self._frames[indices]
        if out is not None:
            out[:] = frames
        return DecodedFrames(indices, frames)

    def close(self) -> None:
        """Nothing to do."""

    def __enter__(self) -> DecodedReader:
        return self

    def __exit__(self, *exc: object) -> None:
        return None


class DecodedSource:
    """Opens what was decoded beforehand.

    Parameters
    ----------
    paths : iterable of Path
        Small enough to be in memory all at once; links to one file share its frames.
    num_workers : int
    """

    def __init__(self, paths: Iterable[Path], num_workers: int = 1) -> None:
        self.num_workers = num_workers
        decoded: dict[Path, DecodedReader] = {}
        self._readers: dict[str, DecodedReader] = {}
        for path in paths:
            real = path.resolve()
            if real not in decoded:
                with open_reader(real) as reader:
                    found = reader.read(np.arange(reader.num_frames))
                    decoded[real] = DecodedReader(
                        reader.info, reader.frame_times_s[: len(found.frames)], np.array(found.frames)
                    )
            self._readers[str(path)] = decoded[real]

    def open_reader(self, path: str) -> DecodedReader:
        """Return the reader of a path given at the start."""
        return self._readers[path]

    def close(self) -> None:
        """Nothing to do."""
