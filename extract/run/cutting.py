"""From a decoded video to crops in the encoder's batches: each distinct view of a crop is cut once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from extract.decoding.sound import HeardCrops
from extract.device.encode import CropItem, Encoder
from extract.pixels.colour import draw_colours
from extract.pixels.preprocess import cut_crop
from extract.rates import Rates
from extract.run.shard_work import TargetShard, VideoWork, picked_for
from extract.run.video_job import NOT_DECODED, PickedCrops, SoundRequest, VideoFrames
from extract.targets import ViewSpec

if TYPE_CHECKING:
    import torch

View = tuple[tuple[int, ...], int, bool]
"""Positions of the frames, size in pixels, with the frames before."""


def cut_video(work: VideoWork, decoded: VideoFrames, frames: torch.Tensor, encoder: Encoder, rates: Rates) -> None:
    """Cut every crop of a video and hand it to the encoder.

    Parameters
    ----------
    work : VideoWork
    decoded : VideoFrames
        Of `work.job`.
    frames : Tensor of shape (F, H, W, 3), uint8
        Its frames, on the device.
    encoder : Encoder
    rates : Rates
    """
    plans = []
    for picked in decoded.crops:
        seeing = [s for s in work.shards if s.target.crops == picked.request.crops and s.target.sound is None]
        for view in dict.fromkeys(view_of(s) for s in seeing):
            sharing = [s for s in seeing if view_of(s) == view]
            plans.append((picked, view, sharing))
    for picked, view, sharing in plans:
        _encode_view(work, picked, view, sharing, frames, encoder, rates)
    for request, heard in decoded.heard:
        _encode_sound(work, request, heard, frames.device, encoder)


def _encode_sound(
    work: VideoWork, request: SoundRequest, heard: HeardCrops, device: torch.device, encoder: Encoder
) -> None:
    """Hand the spectrograms of a video to the networks that hear."""
    import torch

    hearing = [s for s in work.shards if (s.target.crops, s.target.sound) == (request.crops, request.sound)]
    num_values = request.sound.num_mels * request.sound.num_steps
    view = ViewSpec(
        1, math.ceil(math.sqrt(num_values)), with_previous=False
    )  # a batch holds as many values as of pixels
    for k in np.flatnonzero(heard.has_sound).tolist():
        number = int(request.numbers[k])
        work.expect(len(hearing))
        sinks = {s.target.label: partial(_deliver, work, s, number) for s in hearing}
        encoder.add(view, CropItem(torch.from_numpy(heard.spectrograms[k][None].copy()).to(device), None, sinks))


def view_of(shard: TargetShard) -> View:
    """Return how a target sees crops: targets with the same view share pixels."""
    return shard.target.positions, shard.target.size_px, shard.target.with_previous


def _encode_view(
    work: VideoWork,
    picked: PickedCrops,
    view: View,
    sharing: Sequence[TargetShard],
    frames: torch.Tensor,
    encoder: Encoder,
    rates: Rates,
) -> None:
    positions, size_px, with_previous = view
    spec = ViewSpec(len(positions), size_px, with_previous)
    request = picked.request
    current, previous = picked_for(sharing[0].target, picked)
    colours = draw_colours(request.policy, work.video_id, work.crops[request.crops].valid.size)
    for k, number in enumerate(request.numbers.tolist()):
        if (current[k] == NOT_DECODED).any() or (previous is not None and (previous[k] == NOT_DECODED).any()):
            continue
        with rates.measure("preprocess", 1, frames.device):
            geometry, colour = request.geometry[k], colours[number]
            cut = cut_crop(frames, current[k], geometry, size_px, colour)
            before = None if previous is None else cut_crop(frames, previous[k], geometry, size_px, colour)
        work.expect(len(sharing))
        sinks = {s.target.label: partial(_deliver, work, s, number) for s in sharing}
        encoder.add(spec, CropItem(cut, before, sinks))


def _deliver(work: VideoWork, shard: TargetShard, number: int, feature: np.ndarray) -> None:
    work.deliver(shard, number, feature)
