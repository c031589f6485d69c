"""All that a pretraining is handed: clips of a dataset, networks to train, and how one is kept and looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from extract.backbones.encoders import build_encoder, save_memory
from extract.backbones.stored import encode_network
from extract.clips.feed import ClipFeed
from extract.clips.rows import choose_feed_rows
from pipeline.compute.clips import ClipBatch
from pipeline.compute.seeds import keyed, own_random
from pipeline.recipe import PretrainSpec
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset

MAX_PICTURE_VIDEOS, MAX_PICTURE_FRAMES, GAP_PX = 8, 8, 4


@dataclass(frozen=True)
class ClipSupply:
    """The clips and networks of one pretraining; see :class:`aggregate.pretraining.material.Material`."""

    spec: PretrainSpec
    source: ClipFeed
    encoders: Mapping[str, tuple[nn.Module, int]]

    def encode(self, network: nn.Module) -> bytes:
        """Return a network of the first stream as the bytes of its file."""
        _, dim = self.encoders[self.spec.streams[0]]
        return encode_network(network, self.spec.encoder, self.spec.clips.num_frames, dim)

    def picture(self, batch: ClipBatch) -> bytes:
        """Return a PNG of what the network sees of a batch."""
        return contact_sheet(batch, self.spec)

    def clear(self) -> None:
        """Remove the decoded clips."""
        self.source.clear()


def supply_clips(
    spec: PretrainSpec, dataset: Dataset, settings: Settings, place: torch.device, share: tuple[int, int] = (0, 1)
) -> ClipSupply:
    """Open the clips of a dataset and build the networks with drawn weights.

    Parameters
    ----------
    spec : PretrainSpec
    dataset : Dataset
    settings : Settings
    place : torch.device
    share : tuple of int
        (rank, number) of this process.
    """
    num_frames = spec.clips.num_frames
    encoders: dict[str, tuple[nn.Module, int]] = {}
    for k, stream in enumerate(spec.streams):
        with own_random(keyed(spec.seed, k)):
            network = build_encoder(spec.encoder, num_frames)
        dim = width_of(network, spec, num_frames)
        encoders[stream] = (save_memory(network) if spec.checkpointing else network, dim)
    feed = ClipFeed(dataset, choose_feed_rows(dataset, spec), spec, settings, place, share)
    return ClipSupply(spec, feed, encoders)


def width_of(network: nn.Module, spec: PretrainSpec, num_frames: int) -> int:
    """Return the channels of a network, by running it on one clip of zeros."""
    size = spec.encoder.size_px
    was_training = network.training
    with torch.no_grad():
        found = network.eval()(torch.zeros((1, 3, num_frames, size, size)))
    network.train(was_training)
    return int(found.shape[1])


def contact_sheet(batch: ClipBatch, spec: PretrainSpec) -> bytes:
    """Return a PNG of the clips of a batch as the first stream's network sees them: a row a clip, time to the right.

    Clips of one video stand together; a gap parts the videos.
    """
    from PIL import Image

    clips = batch.clips[spec.streams[0]][:MAX_PICTURE_VIDEOS].float().cpu()
    mean, std = (torch.tensor(v).view(1, 1, 3, 1, 1, 1) for v in (spec.encoder.mean, spec.encoder.std))
    frames = np.linspace(0, clips.shape[3] - 1, min(MAX_PICTURE_FRAMES, clips.shape[3])).round().astype(int)
    pixels = ((clips * std + mean).clamp(0, 1) * 255).to(torch.uint8)[:, :, :, torch.from_numpy(frames)]
    num_videos, views, _, num_frames, size, _ = pixels.shape
    rows = pixels.permute(0, 1, 4, 3, 5, 2).reshape(num_videos, views * size, num_frames * size, 3).numpy()
    gap = np.full((GAP_PX, rows.shape[2], 3), 255, np.uint8)
    sheet = np.concatenate([part for row in rows for part in (row, gap)][:-1])
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
