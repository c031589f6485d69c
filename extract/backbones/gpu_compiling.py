"""A network compiled for a GPU where the planned work repays it: casts, norms and activations become one pass.

Measured on an H100 (torch 2.11): slow_r50 on 16 frames of 224 px in float16 runs 693 crops/s as it is, 1,235 compiled.
Weights are copied in the precision of the run, so that nothing is cast anew for every batch; batches that are not full
are filled up, so that there is one size to compile for.
"""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from extract.backbones.interface import COMPILED, PLAIN

if TYPE_CHECKING:
    import torch

    from extract.backbones.interface import Backbone

    Run = Callable[[torch.Tensor], torch.Tensor]

COMPILE_S = 40.0
"""What compiling and checking is taken to cost: 16 s for slow_r50, more for networks of more kinds of layers."""
GAIN = 1.5
"""How much faster it is expected to make a network."""
WORTH_KEEPING = 1.05
TOLERANCES = {None: 1e-3, "float16": 2e-3, "bfloat16": 1e-2}
"""Largest relative difference to the features of the network as it is, by precision. The rounding of float16 alone
makes 4e-4 between two orders of the same sums, that of bfloat16 3e-3, and float32 convolves in TF32."""
TIMED_RUNS = 3


def compile_where_it_pays(backbone: Backbone, shape: tuple[int, ...], num_crops: int) -> tuple[str, str, float]:
    """Compile a network for batches of `shape` if so many crops repay it.

    Returns
    -------
    way : {"compiled", "plain"}
    note : str
        One line for people.
    speedup : float
        Measured; 1 where nothing was done.
    """
    where = f"runs on {backbone.device} in {backbone.autocast or 'float32'}"
    before = backbone.as_before
    if before not in (None, COMPILED):
        return PLAIN, f"{where}, not compiled, as for the shards that are there", 1.0
    if not has_triton():
        return PLAIN, f"{where}, not compiled: no Triton here", 1.0
    import torch

    from pipeline.compute.seeds import own_random

    try:
        with torch.inference_mode(), own_random(0, backbone.device):
            batch, _, frames, height, width = shape
            drawn = torch.randn(batch, frames, height, width, 3, device=backbone.device)
            clips = drawn.permute(0, 4, 1, 2, 3)  # laid out as crops come
            expected, plain_s = _timed(_as_it_is(backbone), clips)
            rate, saved_s = len(clips) / plain_s, num_crops * plain_s / len(clips) * (1 - 1 / GAIN)
            if saved_s < COMPILE_S and before is None:
                why = f"for {num_crops} crops at {rate:.0f}/s it would save {saved_s:.0f} s and cost about"
                return PLAIN, f"{where}, not compiled: {why} {COMPILE_S:.0f} s", 1.0
            return _tried(backbone, clips, expected, plain_s, where)
    except Exception as err:  # whatever a compiler raises; the network as it is is right and ready
        reason = (str(err).strip() or type(err).__name__).splitlines()[0][:200]
        return PLAIN, f"{where}: compiling failed with {type(err).__name__}: {reason}", 1.0


def has_triton() -> bool:
    """Whether torch can compile for a GPU here."""
    return importlib.util.find_spec("triton") is not None


def _tried(
    backbone: Backbone, clips: torch.Tensor, expected: torch.Tensor, plain_s: float, where: str
) -> tuple[str, str, float]:
    from extract.backbones.tuning import relative_difference

    started = time.perf_counter()
    run = compiled_for(backbone, len(clips))
    run(clips)
    spent_s = time.perf_counter() - started
    found, seconds = _timed(run, clips)
    alone = relative_difference(run(clips[-1:]), expected[-1:])
    difference, speedup = max(relative_difference(found, expected), alone), plain_s / seconds
    if not difference <= TOLERANCES[backbone.autocast]:
        return PLAIN, f"{where}: compiling changed the features by {difference:.1e}", 1.0
    if speedup < WORTH_KEEPING and backbone.as_before != COMPILED:
        return PLAIN, f"{where}: compiling took {spent_s:.0f} s without gain ({speedup:.2f}x)", 1.0
    backbone.use_for(tuple(clips.shape), run, COMPILED)
    note = f"{where}, compiled in {spent_s:.0f} s, {speedup:.2f}x as fast, features equal to {difference:.0e}"
    return COMPILED, note, speedup


def compiled_for(backbone: Backbone, batch: int) -> Run:
    """Return the compiled form of a network, for any number of crops; compiled at the first call, for `batch` at once.

    It takes float32 crops and returns float32 features.
    """
    import torch

    from extract.backbones.compiling import named_entry

    precision = None if backbone.autocast is None else getattr(torch, backbone.autocast)
    network = backbone.network if precision is None else copy.deepcopy(backbone.network).to(precision)
    entry = torch.compile(named_entry(network), dynamic=False)

    def one(clips: torch.Tensor) -> torch.Tensor:
        num_crops = len(clips)
        if num_crops < batch:
            last = clips.is_contiguous(memory_format=torch.channels_last_3d) and not clips.is_contiguous()
            layout = torch.channels_last_3d if last else torch.contiguous_format
            filled = torch.empty((batch, *clips.shape[1:]), device=clips.device, memory_format=layout)
            filled[:num_crops], filled[num_crops:] = clips, 0.0
            clips = filled
        clips = clips.to(precision or torch.float32, copy=True)
        # always a fresh tensor of one size and layout, in one state of autocast: any other would be compiled for anew
        with torch.autocast(backbone.device.type, dtype=torch.bfloat16, enabled=False):
            return entry(clips)[:num_crops].float()

    def run(clips: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return one(clips) if len(clips) <= batch else torch.cat([one(part) for part in clips.split(batch)])

    return run


def _as_it_is(backbone: Backbone) -> Run:
    import torch

    precision = getattr(torch, backbone.autocast or "float32")

    def run(clips: torch.Tensor) -> torch.Tensor:
        with torch.autocast(backbone.device.type, dtype=precision, enabled=backbone.autocast is not None):
            return backbone.network(clips).float()

    return run


def _timed(run: Run, clips: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the features and the seconds of a run, the first left out; features on the host are there."""
    run(clips).cpu()
    started = time.perf_counter()
    for _ in range(TIMED_RUNS):
        features = run(clips)
    features.cpu()
    return features, (time.perf_counter() - started) / TIMED_RUNS
