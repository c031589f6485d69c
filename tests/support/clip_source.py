"""A source of clips that are plain tensors: what tests of pretraining learn from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.compute.clips import ClipBatch, LabelledRows

CLASSES = 3
FRAMES, SIZE = 2, 4


def toy_encoder(seed: int = 0, width: int = 8) -> tuple[nn.Module, int]:
    """Return a tiny network on (N, 3, 2, 4, 4), with a norm that no batch disturbs, and dropout."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * FRAMES * SIZE * SIZE, width), nn.LayerNorm(width)), width


class ToySource:
    """Videos of three classes: a pattern each, and noise of their own."""

    def __init__(
        self,
        num_videos: int = 24,
        batch_size: int = 8,
        views: int = 2,
        streams: tuple[str, ...] = ("rgb",),
        share: tuple[int, int] = (0, 1),
        poison_step: int | None = None,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.patterns = torch.randn((CLASSES, 3, FRAMES, SIZE, SIZE), generator=generator)
        self._size, self._views, self._streams, self._share = batch_size, views, streams, share
        self._poison_step = poison_step
        self.labels = np.arange(num_videos) % CLASSES
        self.num_videos = num_videos
        self.steps_per_epoch = num_videos // batch_size
        self.held_out = LabelledRows(np.arange(num_videos, num_videos + 12), np.arange(12) % CLASSES)
        self.gallery = LabelledRows(np.arange(num_videos), self.labels)

    def batches(self, first_step: int, last_step: int) -> Iterator[ClipBatch]:
        for step in range(first_step, last_step):
            rng = np.random.default_rng(step)
            rows = rng.permutation(self.num_videos)[: self._size]
            batch = self._batch(rows, step)
            begin, end = (self._size * k // self._share[1] for k in (self._share[0], self._share[0] + 1))
            part = slice(begin, end)
            clips = {stream: clip[part] for stream, clip in batch.clips.items()}
            if step == self._poison_step:
                clips = {stream: clip * torch.inf for stream, clip in clips.items()}
            yield ClipBatch(
                clips, batch.raw_geometry[part], batch.valid[part], batch.video_ids[part], batch.group_ids[part]
            )

    def plain(self, rows: np.ndarray) -> Iterator[ClipBatch]:
        yield self._batch(rows, 10_000)

    def close(self) -> None:
        return

    def _batch(self, rows: np.ndarray, seed: int) -> ClipBatch:
        generator = torch.Generator().manual_seed(seed)
        shape = (len(rows), self._views, 3, FRAMES, SIZE, SIZE)
        shown = self.patterns[torch.from_numpy(rows % CLASSES)][:, None]
        clips = {stream: shown + torch.randn(shape, generator=generator) for stream in self._streams}
        geometry = torch.zeros((len(rows), self._views, 9))
        geometry[..., 0] = torch.arange(self._views)
        geometry[..., 1] = geometry[..., 0] + 1
        geometry[..., 7] = torch.tensor([-2.0, -1.0, 1.0, 2.0])[torch.arange(self._views) % 4]
        ids: Tensor = torch.from_numpy(rows.astype(np.int64))
        return ClipBatch(clips, geometry, torch.ones(shape[:2], dtype=torch.bool), ids, ids)
