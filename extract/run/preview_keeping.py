"""Small pictures of the videos of a run, between their decoding and the moment their shard is written."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from extract.pixels.preview_strips import StripMaker
from extract.run.video_job import VideoFrames
from pipeline.recipe.previews import PreviewSpec

if TYPE_CHECKING:
    from pipeline import Dataset


class PreviewKeeper:
    """Makes strips and keeps them in the store, shard by shard. Safe to use from many threads.

    Parameters
    ----------
    spec : PreviewSpec
    dataset : Dataset
        Open for writing.
    """

    def __init__(self, spec: PreviewSpec, dataset: Dataset) -> None:
        self._spec, self._dataset = spec, dataset
        self._makers: dict[int, StripMaker] = {}
        self._lock = threading.Lock()

    def take(self, row: int, part: VideoFrames) -> None:
        """Look at some decoded frames of a video; its parts come one after the other."""
        if part.times_s is None or not len(part.frames):
            return
        with self._lock:
            maker = self._makers.setdefault(row, StripMaker(self._spec))
        maker.take(part.frames, part.times_s, part.untrue)

    def save(self, rows: Iterable[int]) -> None:
        """Keep the strips of rows that are complete, and forget them."""
        with self._lock:
            makers = {int(row): self._makers.pop(int(row)) for row in rows if int(row) in self._makers}
        strips = {row: strip for row, maker in makers.items() if (strip := maker.finish()) is not None}
        if strips:
            self._dataset.save_previews(strips)
