"""Decoded clips on disk for as long as they are used: uint8, sharded Zarr, every chunk with its checksum.

One folder holds the clips of one part of the videos, drawn once. A row is a crop, its pixels are a chunk, a shard holds
a few videos: a step reads the crops it sees and no others. A shard counts when its mark exists, which is written last.
Whatever is not as it was written is decoded again: nothing here is worth more than the time to make it.
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
from extract.clips.shard_rows import read_rows, write_rows
from pipeline.errors import CorruptDataError, StorageError
from pipeline.storage.layout import ArrayLayout

SHARD_VIDEOS = 16
PIXELS_NDIM = 5
"""(crop, frame, height, width, colour)."""

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
        self.num_crops = len(like.valid)
        self._layouts = {name: self._layout_of(array) for name, array in like.arrays.items()}
        self._is_open = False

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
        self._open()
        for name, file in self._files(shard).items():
            write_rows(file, np.concatenate([one.arrays[name] for one in clips]), self._layouts[name])
        self._mark(shard).write_text(json.dumps(self._sizes(shard)))

    def read(self, positions: np.ndarray, decode: Decode, crops: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the arrays of some videos, (n, crops, ...) each; a damaged shard is decoded again.

        Parameters
        ----------
        positions : ndarray
            (n,) int64.
        decode : callable
            Makes again what was damaged.
        crops : ndarray, optional
            (n, W) int64: which crops of each; all by default.

        Raises
        ------
        StorageError
            If what was made again is not as it was written either.
        """
        if crops is None:
            crops = np.broadcast_to(np.arange(self.num_crops), (len(positions), self.num_crops))
        rows = (positions[:, None] * self.num_crops + crops).reshape(-1)
        of_shard = rows // (SHARD_VIDEOS * self.num_crops)
        out = {name: np.empty((len(rows), *one.row_shape), one.dtype) for name, one in self._layouts.items()}
        for shard in np.unique(of_shard).tolist():
            at = np.flatnonzero(of_shard == shard)
            inside = rows[at] - shard * SHARD_VIDEOS * self.num_crops
            if not (self._is_whole(shard) and self._read(shard, inside, at, out)):
                self._make_again(shard, decode)
                if not self._read(shard, inside, at, out):
                    raise StorageError(
                        f"expected in {self.folder} the clips that were written a moment ago, found others; the disk "
                        "loses what it is given: set SCALE_CACHE to a folder on another one"
                    )
        return {name: array.reshape(*crops.shape, *array.shape[1:]) for name, array in out.items()}

    def drop(self) -> None:
        """Remove the folder."""
        self._is_open = False
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, shard: int, inside: np.ndarray, at: np.ndarray, out: dict[str, np.ndarray]) -> bool:
        """Fill in rows of a shard; False where it is not as it was written."""
        try:
            for name, file in self._files(shard).items():
                read_rows(file, self._layouts[name], inside, at, out[name])
        except (CorruptDataError, OSError):
            return False
        return True

    def _make_again(self, shard: int, decode: Decode) -> None:
        self._mark(shard).unlink(missing_ok=True)
        self.write(shard, decode(self.positions(shard)))

    def _sizes(self, shard: int) -> dict[str, int]:
        """Return the bytes of a shard's files; -1 where there is none."""
        return {name: file.stat().st_size if file.is_file() else -1 for name, file in self._files(shard).items()}

    def _files(self, shard: int) -> dict[str, Path]:
        layouts = self._layouts.items()
        return {name: self.folder.joinpath(name, "c", str(shard), *["0"] * (a.ndim - 1)) for name, a in layouts}

    def _is_whole(self, shard: int) -> bool:
        """Whether a shard's files are as long as they were written."""
        try:
            return bool(json.loads(self._mark(shard).read_text()) == self._sizes(shard))
        except (OSError, ValueError):
            return False

    def _mark(self, shard: int) -> Path:
        return self.folder / f"shard-{shard}.done"

    def _layout_of(self, one: np.ndarray) -> ArrayLayout:
        shard_rows = SHARD_VIDEOS * self.num_crops
        return ArrayLayout(one.shape[1:], one.dtype, shard_rows, 1 if one.ndim == PIXELS_NDIM else shard_rows)

    def _open(self) -> None:
        """Make the arrays, unless they are there; marks of shards of other shapes count no more."""
        if self._is_open:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, layout in self._layouts.items():
            self._make_array(name, layout)
        self._is_open = True

    def _make_array(self, name: str, layout: ArrayLayout) -> None:
        path = self.folder / name
        shape, chunks = (self.num_videos * self.num_crops, *layout.row_shape), (layout.chunk_rows, *layout.row_shape)
        try:
            array = zarr.open_array(path, mode="r")
            if (array.shape, array.chunks, array.dtype) == (shape, chunks, layout.dtype):
                return
        except (OSError, ValueError, KeyError):
            pass
        for mark in self.folder.glob("shard-*.done"):
            mark.unlink()
        zarr.create_array(
            path,
            shape=shape,
            dtype=layout.dtype,
            chunks=chunks,
            shards=(layout.shard_rows, *layout.row_shape),
            compressors=[Crc32cCodec()],
            overwrite=True,
        )
