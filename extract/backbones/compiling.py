"""``torch.compile`` where the planned work repays it, checked against the uncompiled network.

Once a network is tuned (:mod:`extract.backbones.tuning`) little is left to
gain on a CPU: x3d_xs on 2 cores runs 124 crops/s tuned and 130 compiled. What
made compiling look like a large win were norms, activations and layouts that
tuning takes care of in milliseconds.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.compute.seeds import seeded
from pipeline.events import Event, Note, OnEvent, ignore

if TYPE_CHECKING:
    import torch
    from torch import nn

    from extract.backbones.interface import Backbone

log = logging.getLogger(__name__)

UNCOMPILED = "runs uncompiled"
"""What is said of a network that stays as it is begins so."""
COMPILE_S = 40.0
"""What compiling and checking is taken to cost; 10-60 s on 2 cores, by the network."""
TOLERANCE = 1e-4
"""Largest relative difference between compiled and uncompiled features."""
OPTIONS: dict[str, Any] = {"freezing": True, "layout_optimization": False}
"""The tuned layouts are kept: inductor's own choice halves the rate of X3D (58 crops/s instead of 130)."""
WORTH_KEEPING = 1.0
"""A compiled network that measures slower than this is dropped: it holds memory (x3d_xs peaks at 2.5 GiB, not 1.3)."""
TIMED_CROPS = 8
"""Most crops of a timing batch; large networks see fewer than the run's batches hold."""


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What :func:`optimise` did.

    Attributes
    ----------
    compiled : bool
    note : str
        One line for people.
    speedup : float
        Compiled over uncompiled rate, measured; 1 where nothing was compiled.
    """

    compiled: bool
    note: str
    speedup: float = 1.0


def say_uncompiled_once(on_event: OnEvent) -> OnEvent:
    """Pass everything on, but that a network runs uncompiled only once: not for each, and each of its sizes."""
    was_said = False

    def tell(event: Event) -> None:
        nonlocal was_said
        if isinstance(event, Note) and f": {UNCOMPILED}" in event.text:
            if was_said:
                return
            was_said = True
        on_event(event)

    return tell


def optimise(
    backbone: Backbone,
    example_shape: tuple[int, ...],
    num_crops_planned: int,
    on_event: OnEvent = ignore,
    *,
    as_before: bool | None = None,
) -> Optimisation:
    """Compile a backbone for crops of one size if the planned work pays for it.

    The compiled network replaces the other one for crops of this size, any
    batch size. It is kept only if its features are equal to 1e-4 and it is
    faster, both measured here.

    Parameters
    ----------
    backbone : Backbone
    example_shape : tuple of int
        (B, 3, T, H, W) of the batches to come.
    num_crops_planned : int
        Crops of this size still to be seen.
    on_event : callable
        Gets one :class:`pipeline.events.Note`.
    as_before : bool, optional
        Whether it was compiled for what stands in the store already; then that decides, not the work.

    Returns
    -------
    Optimisation
    """
    backbone.check_input(example_shape)
    result = _optimise(backbone, example_shape, num_crops_planned, as_before)
    log.info("%s: %s", backbone.name, result.note)
    on_event(Note(stage="extract", text=f"{backbone.name}: {result.note}"))
    return result


def _optimise(backbone: Backbone, shape: tuple[int, ...], num_crops: int, as_before: bool | None) -> Optimisation:
    if backbone.device.type != "cpu":
        return Optimisation(False, f"runs on {backbone.device} in {backbone.autocast or 'float32'}, not compiled")
    if as_before is False:
        return Optimisation(False, f"{UNCOMPILED}, as for the shards that are there")
    import torch

    from extract.backbones.tuning import relative_difference

    num_timed = min(max(shape[0], 2), TIMED_CROPS)
    clips = torch.randn((num_timed, *shape[1:]), generator=seeded(0))
    with torch.inference_mode():
        expected, uncompiled_s = _timed(backbone.network, clips)
        crop_s = uncompiled_s / num_timed
        saved_s = num_crops * crop_s * (1 - 1 / backbone.info.compile_gain)
        if saved_s < COMPILE_S and not as_before:
            return Optimisation(
                False,
                f"{UNCOMPILED}: for {num_crops} crops at {1 / crop_s:.1f}/s compiling would save {saved_s:.0f} s "
                f"and cost about {COMPILE_S:.0f} s",
            )
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            return Optimisation(False, f"{UNCOMPILED}: no C++ compiler (g++) on this machine")
        started = time.perf_counter()
        try:
            run = compiled(backbone.network, fewest=num_timed)
            found = run(clips)
        except Exception as err:  # whatever a compiler backend raises; the uncompiled network is right and ready
            reason = (str(err).strip() or type(err).__name__).splitlines()[0]
            return Optimisation(False, f"{UNCOMPILED}: compiling failed with {type(err).__name__}: {reason[:200]}")
        spent_s = time.perf_counter() - started
        difference = relative_difference(found, expected)
        if not difference <= TOLERANCE:
            return Optimisation(False, f"{UNCOMPILED}: compiling changed the features by {difference:.1e}")
        speedup = _speedup(backbone.network, run, clips)
    if speedup < WORTH_KEEPING:
        return Optimisation(False, f"{UNCOMPILED}: compiling took {spent_s:.0f} s without gain ({speedup:.2f}x)")
    backbone.use_for(shape, run)
    note = f"compiled in {spent_s:.0f} s, {speedup:.2f}x as fast, features equal to {difference:.0e}"
    return Optimisation(True, note, speedup)


def compiled(network: nn.Module, fewest: int = 2) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a compiled form that takes any batch size at the first call's frames and size.

    Compilation happens at the first call. Batches smaller than `fewest` (at
    least 2, and no more than the first call's) are filled up with zeros: torch
    would compile for them anew.
    """
    import torch

    entry = torch.compile(_entry(network), fullgraph=True, dynamic=False, options=OPTIONS)

    def run(clips: torch.Tensor) -> torch.Tensor:
        num_crops = clips.shape[0]
        # always a fresh tensor of one layout and kind: any other would be compiled for anew
        with torch.inference_mode():
            batch = clips.new_zeros((max(num_crops, fewest), *clips.shape[1:]))
            batch[:num_crops] = clips
            torch._dynamo.mark_dynamic(batch, 0)
            return entry(batch)[:num_crops]

    return run


def _entry(network: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function around a network whose code object is its own.

    torch.compile keeps its cache, its limit of recompilations and its memory
    of sizes by code object; a shared ``forward`` would mix up networks.
    """

    def forward(clips: torch.Tensor) -> torch.Tensor:
        return network(clips)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{id(network):x}_{time.monotonic_ns():x}")
    return forward


def _timed(run: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the features and the seconds of the faster of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        features = run(clips)
        seconds.append(time.perf_counter() - started)
    return features, min(seconds)


def _speedup(
    before: Callable[[torch.Tensor], torch.Tensor], after: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor
) -> float:
    """Return how many times as fast `after` is; in turns, since other processes come and go."""
    pairs = [(_timed(before, clips)[1], _timed(after, clips)[1]) for _ in range(2)]
    return min(b for b, _ in pairs) / min(a for _, a in pairs)
