"""How long a first run will take here, and how many bytes it will leave: measured on a few of the videos."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from flows.first_recipe.look import FolderLook
from flows.first_recipe.propose import Proposal
from pipeline.compute.threads import at_most_threads, num_cores
from pipeline.errors import PipelineError
from pipeline.recipe import Recipe
from pipeline.settings import Settings

MEASURED_VIDEOS = 3


@dataclass(frozen=True)
class Estimate:
    """Of a whole run."""

    decode_s: float
    forward_s: float
    store_bytes: int

    @property
    def seconds(self) -> float:
        """Decoding and network share the machine's cores."""
        return self.decode_s + self.forward_s


def estimate(look: FolderLook, proposal: Proposal, recipe: Recipe, settings: Settings) -> Estimate | None:
    """Measure decoding and one batch of the network; None where either cannot be tried here.

    Parameters
    ----------
    look : FolderLook
    proposal : Proposal
    recipe : Recipe
        The proposal, parsed.
    settings : Settings
        Says where weights are and which device computes.
    """
    decode_s = _decode_seconds(look)
    forward = _forward_seconds(recipe, settings)
    if decode_s is None or forward is None:
        return None
    seconds_per_crop, dim = forward
    num_videos, cores = len(look.videos), num_cores()
    num_crops = num_videos * proposal.num_crops
    return Estimate(num_videos * decode_s / cores, num_crops * seconds_per_crop / cores, num_crops * (2 * dim + 40))


def _decode_seconds(look: FolderLook) -> float | None:
    """Return processor seconds to decode one video whole."""
    from extract.decoding.decode_pool import DecodePool

    bad = {path for path, _ in look.unreadable}
    good = [v for v in look.videos if v not in bad]
    chosen = [good[i * len(good) // MEASURED_VIDEOS] for i in range(min(MEASURED_VIDEOS, len(good)))]
    spent = []
    with DecodePool(1) as pool:
        for video in chosen:
            try:
                with pool.open_reader(look.folder / video) as reader:
                    began = time.perf_counter()
                    reader.read(np.arange(0, reader.num_frames, 4))
                    spent.append(time.perf_counter() - began)
            except PipelineError:
                continue
    return sum(spent) / len(spent) if spent else None


def _forward_seconds(recipe: Recipe, settings: Settings) -> tuple[float, int] | None:
    """Return seconds for one crop on one core, and the channels it gives."""
    import torch

    from extract.backbones import load_backbone

    spec = next(iter(recipe.backbones.values()))
    policy = next(iter(recipe.crops.values()))
    try:
        with at_most_threads(1):
            backbone = load_backbone(spec, settings, torch.device("cpu"))
            side, frames = backbone.size_px or policy.size_px, backbone.num_frames or policy.num_frames
            clip = torch.zeros(2, 3, frames, side, side)
            with torch.inference_mode():
                backbone(clip)
                began = time.perf_counter()
                features = backbone(clip)
                spent = (time.perf_counter() - began) / len(clip)
    except (PipelineError, RuntimeError, TypeError, ValueError):
        return None
    return spent, int(features.shape[-1])


def describe(found: Estimate | None) -> str:
    """Write an estimate for people."""
    if found is None:
        return "no estimate: no video or network could be tried here"
    minutes = found.seconds / 60
    if minutes < 2:
        when = f"{found.seconds:.0f} s"
    else:
        when = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    size = found.store_bytes / 2**20
    held = f"{size:.1f} MiB" if size < 1024 else f"{size / 1024:.1f} GiB"
    parts = f"decoding {found.decode_s:.0f} s, network {found.forward_s:.0f} s"
    return f"about {when} on this machine ({parts}) and {held} of features"
