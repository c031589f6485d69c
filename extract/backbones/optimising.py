"""Faster forms of a network where the planned work repays them, each checked against the network as it is.

OpenVINO where it is installed (:mod:`extract.backbones.openvino_network`),
else ``torch.compile`` (:mod:`extract.backbones.compiling`), else nothing. On
a GPU :mod:`extract.backbones.gpu_compiling`.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extract.backbones import compiling, gpu_compiling, openvino_network
from extract.backbones.interface import COMPILED, OPENVINO, PLAIN
from pipeline.compute.seeds import seeded
from pipeline.events import Event, Note, OnEvent, ignore

if TYPE_CHECKING:
    import torch

    from extract.backbones.interface import Backbone

    Run = Callable[[torch.Tensor], torch.Tensor]

log = logging.getLogger(__name__)

UNCOMPILED = "runs uncompiled"
"""What is said of a network that stays as it is begins so."""
COMPILE_S = 40.0
"""What compiling and checking is taken to cost; 10-60 s on 2 cores, by the network."""
CONVERT_S = 4.0
"""What converting for OpenVINO is taken to cost, beside the crops below; 2-5 s of one core, importing it included, for
networks of 3 to 36 million parameters and 160 to 330 layers, whatever their size."""
CONVERT_CROPS = 16
"""The network is run while it is converted, checked and timed: so many crops' time where batches hold one."""
TOLERANCE = 1e-4
"""Largest relative difference between the features of a faster form and those of the network."""
WORTH_KEEPING = 1.0
"""A form that measures slower than this is dropped: it holds memory (x3d_xs compiled peaks at 2.5 GiB, not 1.3)."""
HINT_CROPS = 500
"""Crops for which it is worth the timing to say what a faster form would have saved."""
TIMED_CROPS = 8
"""Most crops of a timing batch, and of those that OpenVINO sees at once; small crops come in larger batches."""
WORDS = {OPENVINO: "converting for OpenVINO", COMPILED: "compiling"}


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What :func:`optimise` did.

    Attributes
    ----------
    way : {"openvino", "compiled", "plain"}
    note : str
        One line for people.
    speedup : float
        Its rate over that of the network as it is, measured; 1 where nothing was done.
    """

    way: str
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
    num_streams: int = 1,
) -> Optimisation:
    """Give a backbone a faster form for crops of one size if the planned work pays for it.

    The form replaces the network for crops of this size, any batch size. It is
    kept only if its features are equal to 1e-4 and it is faster, both measured
    here. Where the backbone is to run `as_before`, that decides, not the work
    and not the clock.

    Parameters
    ----------
    backbone : Backbone
    example_shape : tuple of int
        (B, 3, T, H, W) of the batches to come.
    num_crops_planned : int
        Crops of this size still to be seen.
    on_event : callable
        Gets one :class:`pipeline.events.Note`.
    num_streams : int
        How many threads will call it at once, each with one core.

    Returns
    -------
    Optimisation
    """
    backbone.check_input(example_shape)
    result = _optimise(backbone, example_shape, num_crops_planned, num_streams)
    log.info("%s: %s", backbone.name, result.note)
    on_event(Note(stage="extract", text=f"{backbone.name}: {result.note}"))
    return result


def _optimise(backbone: Backbone, shape: tuple[int, ...], num_crops: int, num_streams: int) -> Optimisation:
    if backbone.device.type != "cpu":
        return Optimisation(*gpu_compiling.compile_where_it_pays(backbone, shape, num_crops))
    if backbone.as_before not in (None, OPENVINO, COMPILED, PLAIN):
        return Optimisation(PLAIN, f"{UNCOMPILED}: what is there was made another way, {backbone.as_before!r}")
    as_it_is = f"{UNCOMPILED}, as for the shards that are there"
    if backbone.as_before == PLAIN and num_crops < HINT_CROPS:
        return Optimisation(PLAIN, as_it_is)
    import torch

    num_at_once = min(shape[0], TIMED_CROPS)
    num_timed = max(num_at_once, 2)
    clips = torch.randn((num_timed, *shape[1:]), generator=seeded(0))
    with torch.inference_mode():
        expected, plain_s = _timed(backbone.network, clips)
        crop_s = plain_s / num_timed
        if backbone.as_before == PLAIN:
            return Optimisation(PLAIN, as_it_is + _hint(backbone, num_crops, crop_s))
        reasons = []
        for way, reason in _ways(backbone, num_crops, crop_s):
            if not reason:
                found = _tried(backbone, way, clips, expected, num_at_once, num_streams)
                if isinstance(found, Optimisation):
                    return found
                reason = found
            reasons.append(reason)
    return Optimisation(PLAIN, f"{UNCOMPILED}: {'; '.join(reasons)}")


def _hint(backbone: Backbone, num_crops: int, crop_s: float) -> str:
    """Say what would be saved had the set not been begun by a small run; nothing where that is nothing."""
    gains = {"OpenVINO": (backbone.info.openvino_gain, CONVERT_S + CONVERT_CROPS * crop_s)}
    if backbone.build is None or not openvino_network.is_installed():
        gains = {"compiling": (backbone.info.compile_gain, COMPILE_S)}
    ((what, (gain, cost_s)),) = gains.items()
    saved_s = num_crops * crop_s * (1 - 1 / gain)
    if saved_s < cost_s:
        return ""
    return (
        f" (they were begun so); for {num_crops} crops at {1 / crop_s:.1f}/s {what} may save {saved_s:.0f} s: a set "
        "that is begun with all videos gets it, under another name of the backbone, or after `scale remove --features`"
    )


def _ways(backbone: Backbone, num_crops: int, crop_s: float) -> Iterator[tuple[str, str]]:
    """Return the forms to try, best first, each with the reason that speaks against it, if one does."""
    before = backbone.as_before
    rate = f"for {num_crops} crops at {1 / crop_s:.1f}/s"
    if backbone.build is None and before == OPENVINO:
        yield OPENVINO, "it cannot be built again, which OpenVINO needs"
    elif before in (None, OPENVINO) and backbone.build is not None:
        saved_s = num_crops * crop_s * (1 - 1 / backbone.info.openvino_gain)
        cost_s = CONVERT_S + CONVERT_CROPS * crop_s
        if not openvino_network.is_installed():
            if before:
                yield OPENVINO, f"the shards that are there were made with OpenVINO: {openvino_network.INSTALL}"
            elif saved_s > cost_s:
                yield OPENVINO, f"{rate} OpenVINO would save {saved_s:.0f} s ({openvino_network.INSTALL})"
        elif saved_s < cost_s and not before:
            yield OPENVINO, f"{rate} OpenVINO would save {saved_s:.0f} s and cost about {cost_s:.0f} s"
        else:
            yield OPENVINO, ""
    if before in (None, COMPILED):
        saved_s = num_crops * crop_s * (1 - 1 / backbone.info.compile_gain)
        if saved_s < COMPILE_S and not before:
            yield COMPILED, f"{rate} compiling would save {saved_s:.0f} s and cost about {COMPILE_S:.0f} s"
        elif shutil.which("g++") is None and shutil.which("clang++") is None:
            yield COMPILED, "no C++ compiler (g++) on this machine"
        else:
            yield COMPILED, ""


def _tried(
    backbone: Backbone, way: str, clips: torch.Tensor, expected: torch.Tensor, num_at_once: int, num_streams: int
) -> Optimisation | str:
    """Make a form and put it in the network's place; or say why not."""
    from extract.backbones.tuning import relative_difference

    doing, started = WORDS[way], time.perf_counter()
    try:
        run = _made(backbone, way, clips, num_at_once, num_streams)
        found = run(clips)
        difference = relative_difference(found, expected)
        alone = relative_difference(run(clips[-1:]), expected[-1:])  # forms that fix their batch fill it up
    except Exception as err:  # whatever a compiler raises; the network as it is is right and ready
        return f"{doing} failed with {type(err).__name__}: {_first_line(err)}"
    spent_s = time.perf_counter() - started
    difference = max(difference, alone)
    if not difference <= TOLERANCE:
        return f"{doing} changed the features by {difference:.1e}"
    speedup = _speedup(backbone.network, run, clips)
    if speedup < WORTH_KEEPING and backbone.as_before != way:
        return f"{doing} took {spent_s:.0f} s without gain ({speedup:.2f}x)"
    backbone.use_for(tuple(clips.shape), run, way)
    what = "converted for OpenVINO" if way == OPENVINO else "compiled"
    note = f"{what} in {spent_s:.0f} s, {speedup:.2f}x as fast, features equal to {difference:.0e}"
    return Optimisation(way, note, speedup)


def _made(backbone: Backbone, way: str, clips: torch.Tensor, num_at_once: int, num_streams: int) -> Run:
    if way == COMPILED:
        return compiling.compiled(backbone.network, fewest=len(clips))
    assert backbone.build is not None
    return openvino_network.converted(backbone.build(), clips[:num_at_once], num_streams)


def _first_line(err: Exception) -> str:
    return (str(err).strip() or type(err).__name__).splitlines()[0][:200]


def _timed(run: Run, clips: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the features and the seconds of the faster of two runs."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        features = run(clips)
        seconds.append(time.perf_counter() - started)
    return features, min(seconds)


def _speedup(before: Run, after: Run, clips: torch.Tensor) -> float:
    """Return how many times as fast `after` is, both having run before; in turns, since other processes come and go."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        for run, found in zip((before, after), seconds, strict=True):
            started = time.perf_counter()
            run(clips)
            found.append(time.perf_counter() - started)
    return min(seconds[0]) / min(seconds[1])
