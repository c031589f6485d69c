"""Crops in, features out: batches of one fixed size, filled across videos, crop sets and shards.

The encoder is called from several threads at once: whoever brings the crop
that fills a batch runs the networks on it. On a CPU that makes independent
single-threaded forward passes, which neither wait for each other at barriers
nor suffer when a decoding process borrows a core; on a GPU there is one such
thread. It gives the device the next batch before it waits for the features of
the last one, so that the device never stands still for the host.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from extract.pixels.preprocess import normalise
from extract.pixels.streams import apply_stream, turned
from extract.rates import Rates
from extract.targets import ResolvedTarget, ViewSpec
from pipeline.compute.memory import is_out_of_memory
from pipeline.compute.transfer import Download, start_download
from pipeline.errors import OutOfMemoryError

if TYPE_CHECKING:
    import torch

    from extract.backbones import Backbone

CPU_BATCH_PIXELS = 6 * 224 * 224
"""Pixels (over all frames) of a batch on a CPU: the activations of more fall out of the caches (measured: MobileNetV2
takes 8.9 ms of a core a frame at 4 frames a batch, 13.8 at 32)."""
GPU_BATCH_PIXELS = 512 * 224 * 224

GPU_BATCHES_AHEAD = 1
"""Batches whose features have not been fetched when the next is given to a GPU."""

Deliver = Callable[[np.ndarray], None]
"""Takes one feature vector (D,), float32."""


@dataclass(slots=True)
class CropItem:
    """One crop's pixels on their way to the networks."""

    current: torch.Tensor
    """(T, S, S, 3) uint8, or (1, num_mels, num_steps) float32 of what is heard."""
    previous: torch.Tensor | None
    sinks: Mapping[str, Deliver]
    """Target label -> where its feature goes."""


@dataclass(slots=True)
class _Group:
    view: ViewSpec
    labels: tuple[str, ...]
    batch_size: int
    pending: list[CropItem] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    """Crops that the networks were run on, and their features, which may still be on their way."""

    items: list[CropItem]
    features: dict[tuple[str, str], Download]


class Encoder:
    """Runs backbones over crops.

    Parameters
    ----------
    targets : sequence of ResolvedTarget
    backbones : mapping of str to Backbone
        By the recipe's backbone name.
    rates : Rates, optional
    batch_crops : int
        Crops a batch; 0 picks by the pixels that a crop has.
    batches_ahead : int, optional
        Batches that may be computed before the features of an older one are fetched; None: 0 on a CPU, where fetching
        is free, `GPU_BATCHES_AHEAD` on a GPU.
    """

    def __init__(
        self,
        targets: Sequence[ResolvedTarget],
        backbones: Mapping[str, Backbone],
        *,
        rates: Rates | None = None,
        batch_crops: int = 0,
        batches_ahead: int | None = None,
    ) -> None:
        self._targets = {t.label: t for t in targets}
        self._backbones = backbones
        self._rates = rates or Rates()
        self._batch_crops = batch_crops
        self._batches_ahead = batches_ahead
        self._in_flight: deque[_Batch] = deque()
        self._groups: dict[tuple[ViewSpec, tuple[str, ...]], _Group] = {}
        self._lock = threading.Lock()
        self._warming = threading.Lock()
        self._warm: set[tuple[object, ...]] = set()
        self._notes: list[str] = []

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should hear of: batches halved for lack of memory."""
        return tuple(self._notes)

    def add(self, view: ViewSpec, item: CropItem) -> None:
        """Take one crop; runs the networks when it fills a batch."""
        batch: list[CropItem] | None = None
        with self._lock:
            group = self._group_of(view, item)
            group.pending.append(item)
            if len(group.pending) >= group.batch_size:
                batch, group.pending = group.pending, []
        if batch is not None:
            self._encode(group, batch)

    def flush(self) -> bool:
        """Run the networks on one batch that is not full, or fetch the features in flight; False if there are none."""
        with self._lock:
            group = next((g for g in self._groups.values() if g.pending), None)
            if group is not None:
                batch, group.pending = group.pending, []
        if group is None:
            return self._fetch(0)
        self._encode(group, batch)
        return True

    def _fetch(self, batches_ahead: int) -> bool:
        """Deliver the features of all but the newest batches; False if there were none to deliver."""
        found = False
        while True:
            with self._lock:
                if len(self._in_flight) <= batches_ahead:
                    return found
                batch = self._in_flight.popleft()
            found = True
            _deliver(batch, self._targets)

    def _group_of(self, view: ViewSpec, item: CropItem) -> _Group:
        labels = tuple(item.sinks)
        networks = tuple(
            dict.fromkeys(f"{self._targets[k].target.backbone}-{self._targets[k].target.stream}" for k in labels)
        )
        key = (view, networks)
        if key not in self._groups:
            self._groups[key] = _Group(view, networks, self._batch_size(view, item.current.device.type))
        return self._groups[key]

    def _batch_size(self, view: ViewSpec, device_type: str) -> int:
        if self._batch_crops:
            return self._batch_crops
        return batch_crops(view.num_frames, view.size_px, device_type)

    def _encode(self, group: _Group, items: list[CropItem]) -> None:
        import torch

        while items:
            size = min(len(items), group.batch_size)
            try:
                batch = self._forward(items[:size])
            except (torch.OutOfMemoryError, RuntimeError) as err:
                if not is_out_of_memory(err):
                    raise
                self._halve(group, size, err)
                continue
            items = items[size:]
            with self._lock:
                self._in_flight.append(batch)
            self._fetch(self._ahead_on(batch.items[0].current.device.type))

    def _ahead_on(self, device_type: str) -> int:
        if self._batches_ahead is not None:
            return self._batches_ahead
        return 0 if device_type == "cpu" else GPU_BATCHES_AHEAD

    def _halve(self, group: _Group, size: int, err: BaseException) -> None:
        import torch

        if size == 1:
            raise OutOfMemoryError(
                f"no memory for a single crop of {group.view.num_frames} x {group.view.size_px} px: {err}; "
                "use a smaller backbone or crop, or a device with more memory"
            ) from err
        with self._lock:
            if group.batch_size >= size:
                group.batch_size = max(1, size // 2)
                self._notes.append(f"out of memory with {size} crops a batch; going on with {group.batch_size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _forward(self, items: list[CropItem]) -> _Batch:
        """Run every network that the items want."""
        with self._rates.measure("forward", len(items) * self._num_networks(items[0]), items[0].current.device):
            return _Batch(items, self._features(items))

    def _num_networks(self, item: CropItem) -> int:
        wanted = (self._targets[label].target for label in item.sinks)
        return len({(target.backbone, target.stream) for target in wanted})

    def _features(self, items: list[CropItem]) -> dict[tuple[str, str], Download]:
        import torch

        current = torch.stack([item.current for item in items])
        previous = None
        if items[0].previous is not None:
            previous = torch.stack([item.previous for item in items if item.previous is not None])
        features: dict[tuple[str, str], Download] = {}
        seen: dict[str, torch.Tensor] = {}
        for label in items[0].sinks:
            target = self._targets[label]
            backbone, stream = target.target.backbone, target.target.stream
            if stream == "flow_turned" and "flow" in seen:  # finding flow costs more than a small network
                seen[stream] = turned(seen["flow"])
            elif stream not in seen:
                seen[stream] = apply_stream(stream, current, previous)
            if (backbone, stream) not in features:
                clips = seen[stream] if target.sound is not None else self._normalised(seen[stream], target)
                features[backbone, stream] = self._run(backbone, clips)
        return features

    def _normalised(self, clips: torch.Tensor, target: ResolvedTarget) -> torch.Tensor:
        network = self._backbones[target.target.backbone]
        channels_last = network.takes_channels_last((len(clips), 3, *clips.shape[1:4]))
        return normalise(clips, target.info.mean, target.info.std, channels_last=channels_last)

    def _run(self, name: str, clips: torch.Tensor) -> Download:
        """Run one network. Its first run at a size is its own: it may compile."""
        key = (name, *clips.shape[1:])
        if key in self._warm:
            return start_download(self._backbones[name](clips))
        with self._warming:
            features = start_download(self._backbones[name](clips))
            self._warm.add(key)
        return features


def batch_crops(num_frames: int, size_px: int, device_type: str) -> int:
    """Return how many crops a batch holds, by the pixels that a crop has."""
    budget, most = (CPU_BATCH_PIXELS, 16) if device_type == "cpu" else (GPU_BATCH_PIXELS, 256)
    return max(1, min(most, round(budget / (num_frames * size_px**2))))


def _deliver(batch: _Batch, targets: Mapping[str, ResolvedTarget]) -> None:
    """Hand the features of a batch out."""
    features = {key: download.wait() for key, download in batch.features.items()}
    for k, item in enumerate(batch.items):
        for label, deliver in item.sinks.items():
            wanted = targets[label].target
            deliver(features[wanted.backbone, wanted.stream][k])
