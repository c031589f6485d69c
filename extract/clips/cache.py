"""Decoded clips on disk for as long as they are used: uint8, sharded Zarr, every chunk with its checksum.

One folder holds the clips of one part of the videos, drawn once. A chunk is a video, a shard a few of them; a shard
counts when its mark exists, which is written last. Whatever is not as it was written is decoded again: nothing here is
worth more than the time to make it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from extract.clips.decoding import VideoClips

SHARD_VIDEOS = 16
PIXELS_NDIM = 6
"""(video, crop, frame, height, width, colour)."""

Decode = Callable[[Sequence[int]], Sequence[VideoClips]]
"""Positions of videos -> their clips."""


class ClipCache:
    """The clips of some videos.

    Parameters
    ----------
    folder : Path
        Named by all that decides the clips.
    num_videos : int
    like : VideoClips
        Shapes and types of one video's clips.
    """

    def __init__(self, folder: Path, num_videos: int, like: VideoClips) -> None:
        self.folder = folder
        self.num_videos = num_videos
        self._like = like
        self._arrays: dict[str, zarr.Array] = {}

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-self.num_videos // SHARD_VIDEOS)

    @property
    def missing(self) -> tuple[int, ...]:
        """Shards that are still to be decoded."""
        return tuple(shard for shard in range(self.num_shards) if not self._is_whole(shard))

    def positions(self, shard: int) -> range:
        """Return which videos are in a shard."""
        return range(shard * SHARD_VIDEOS, min((shard + 1) * SHARD_VIDEOS, self.num_videos))

    def write(self, shard: int, clips: Sequence[VideoClips]) -> None:
        """Keep the clips of a shard's videos."""
        at = self.positions(shard)
        for name, array in self._open().items():
            array[at.start : at.stop] = np.stack([one.arrays[name] for one in clips])
        self._mark(shard).write_text(json.dumps(self._sizes(shard)))

    def read(self, positions: np.ndarray, decode: Decode) -> dict[str, np.ndarray]:
        """Return the arrays of some videos, (n, ...) each; a damaged shard is decoded again.

        Parameters
        ----------
        positions : ndarray
            (n,) int64.
        decode : callable
            Makes again what was damaged.
        """
        for shard in np.unique(positions // SHARD_VIDEOS).tolist():
            if not self._is_whole(shard):
                self._make_again(shard, decode)
        try:
            return self._read(positions)
        except (ValueError, OSError, RuntimeError):  # a checksum that does not hold: find out whose
            for shard in np.unique(positions // SHARD_VIDEOS).tolist():
                try:
                    self._read(np.array(self.positions(shard)))
                except (ValueError, OSError, RuntimeError):
                    self._make_again(shard, decode)
        return self._read(positions)

    def drop(self) -> None:
        """Remove the folder."""
        self._arrays = {}
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, positions: np.ndarray) -> dict[str, np.ndarray]:
        return {name: _gathered(array, positions) for name, array in self._open().items()}

    def _make_again(self, shard: int, decode: Decode) -> None:
        self._mark(shard).unlink(missing_ok=True)
        self._arrays = {}
        for file in self._files(shard).values():  # or what is left of it would be read before it is replaced
            file.unlink(missing_ok=True)
        self.write(shard, decode(self.positions(shard)))

    def _sizes(self, shard: int) -> dict[str, int]:
        """Return the bytes of a shard's files; -1 where there is none (an array of zeros has none)."""
        return {name: file.stat().st_size if file.is_file() else -1 for name, file in self._files(shard).items()}

    def _files(self, shard: int) -> dict[str, Path]:
        arrays = self._open().items()
        return {name: self.folder.joinpath(name, "c", str(shard), *["0"] * (a.ndim - 1)) for name, a in arrays}

    def _is_whole(self, shard: int) -> bool:
        """Whether a shard's files are as long as they were written; what is gone would be read as zeros."""
        try:
            return bool(json.loads(self._mark(shard).read_text()) == self._sizes(shard))
        except (OSError, ValueError):
            return False

    def _mark(self, shard: int) -> Path:
        return self.folder / f"shard-{shard}.done"

    def _open(self) -> dict[str, zarr.Array]:
        if not self._arrays:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._arrays = {name: self._array(name, one) for name, one in self._like.arrays.items()}
        return self._arrays

    def _array(self, name: str, one: np.ndarray) -> zarr.Array:
        path = self.folder / name
        shape = (self.num_videos, *one.shape)
        try:
            array = zarr.open_array(path, mode="r+")
            if array.shape == shape and array.dtype == one.dtype:
                return array
        except (OSError, ValueError, KeyError):
            pass
        for mark in self.folder.glob("shard-*.done"):
            mark.unlink()
        return zarr.create_array(
            path,
            shape=shape,
            dtype=one.dtype,
            chunks=(1, *one.shape),
            shards=(SHARD_VIDEOS, *one.shape),
            compressors=[Crc32cCodec()],
            overwrite=True,
        )


def _gathered(array: zarr.Array, positions: np.ndarray) -> np.ndarray:
    """Read some videos' part of an array.

    One orthogonal selection is quicker for a few numbers a video; it copies element by element, so that pixels take 8 s
    where a read a video takes 0.1 s.
    """
    if array.ndim < PIXELS_NDIM:
        return np.asarray(array.oindex[positions])
    return np.stack([np.asarray(array[k]) for k in positions.tolist()])
