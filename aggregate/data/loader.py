"""From stored features to batches on a device.

Two sources with one face: :class:`ResidentSource` uploads the whole selection
once and indexes it there (mode `device`); :class:`StreamSource` reads blocks in
bounded memory and copies them while the device computes.

Legend: N = videos, W = stored crops a video, D = channels, B = videos a batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from aggregate.data.arrays import Array, as_crops, as_frame_sizes, as_ids, as_valid, check_finite
from aggregate.data.batch import CropBatch
from aggregate.data.geometry import GeometryFrame, derive_geometry
from pipeline.compute.seeds import keyed, seeded
from pipeline.compute.transfer import pinned, send
from pipeline.errors import NoDataError

T = TypeVar("T")
PREFETCH_BATCHES = 2
MIN_VIDEOS = 2
"""Contrast needs another video."""


@dataclass(frozen=True)
class CropData:
    """The crops of N videos as plain tensors.

    Attributes
    ----------
    features : Tensor
        (N, W, D) float16 or float32.
    raw_geometry : Tensor
        (N, W, 9) float32, `pipeline.storage.schema.GEOMETRY_COLUMNS`.
    valid : Tensor
        (N, W) bool.
    video_ids, group_ids : Tensor
        (N,) int64. Videos cut from one source share a group.
    frame_size_px : Tensor or None
        (N, 2) height and width, for absolute geometry.
    more_features : tuple of Tensor
        (N, W, D_s) float16 or float32: the same crops in further streams.
    """

    features: Tensor
    raw_geometry: Tensor
    valid: Tensor
    video_ids: Tensor
    group_ids: Tensor
    frame_size_px: Tensor | None = None
    more_features: tuple[Tensor, ...] = ()

    @classmethod
    def build(
        cls,
        features: Array,
        raw_geometry: Array,
        valid: Array | None = None,
        video_ids: Array | None = None,
        group_ids: Array | None = None,
        frame_size_px: Array | None = None,
        more_features: Sequence[Array] = (),
    ) -> CropData:
        """Check and fill in: all crops valid, every video its own group.

        Raises
        ------
        ShapeMismatchError
            If the arrays do not fit each other.
        InvalidInputError
            If they are not what they should be, or valid crops hold NaN.
        """
        x, raw = as_crops(features, raw_geometry)
        mask = as_valid(valid, x.shape[:2])
        videos = torch.arange(len(x)) if video_ids is None else as_ids("video_ids", video_ids, len(x))
        groups = videos if group_ids is None else as_ids("group_ids", group_ids, len(x))
        size = as_frame_sizes(frame_size_px, len(x))
        check_finite(x, raw, mask)
        more = tuple(as_crops(array, raw_geometry)[0] for array in more_features)
        for array in more:
            check_finite(array, raw, mask)
        return cls(x, raw, mask, videos, groups, size, more)

    def keep_readable(self) -> CropData:
        """Drop videos without a single valid crop."""
        return self.keep(self.valid.any(1))

    def keep(self, keep: Tensor) -> CropData:
        """Return some of the videos; `keep` is (N,) bool."""
        if bool(keep.all()):
            return self
        size = None if self.frame_size_px is None else self.frame_size_px[keep]
        return CropData(
            self.features[keep],
            self.raw_geometry[keep],
            self.valid[keep],
            self.video_ids[keep],
            self.group_ids[keep],
            size,
            tuple(x[keep] for x in self.more_features),
        )

    def geometry(self, frame: GeometryFrame) -> Tensor:
        """(N, W, 7) float32, the model's view of the raw geometry."""
        return derive_geometry(self.raw_geometry, self.valid, frame=frame, frame_size_px=self.frame_size_px)


class BatchSource(Protocol):
    """Where a trainer gets its crops from. Order depends on (seed, epoch) alone, so that a resume sees the same."""

    @property
    def num_videos(self) -> int:
        """Videos an epoch."""

    @property
    def input_dim(self) -> int:
        """Channels D of the first stream."""

    @property
    def input_dims(self) -> tuple[int, ...]:
        """Channels of every stream."""

    def channel_statistics(self, stream: int = 0) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of every channel over all valid crops, (D,) float64 each, on the CPU."""

    def batches(self, epoch: int, batch_size: int, skip: int = 0) -> Iterable[CropBatch]:
        """Yield full batches of one epoch in its random order, without the first `skip`."""


def channel_statistics(blocks: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of every channel over valid crops.

    Parameters
    ----------
    blocks : iterable of (features (n, W, D), valid (n, W))
        Summed video by video in float64, so that the sums do not depend on how the rows are cut into blocks.

    Returns
    -------
    mean, deviation : Tensor
        (D,) float64 on the CPU.
    """
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for features, valid in blocks:
        for x, usable in zip(features, valid.to(features.device), strict=True):
            kept = x[usable & torch.isfinite(x).all(-1)].double()
            count += len(kept)
            total, squares = total + kept.sum(0).cpu(), squares + kept.square().sum(0).cpu()
    mean = total / max(count, 1)
    return mean, (squares / max(count, 1) - mean.square()).clamp_min(0).sqrt()


def num_batches(num_videos: int, batch_size: int) -> int:
    """Full batches an epoch; a selection smaller than one batch is one batch."""
    return max(1, num_videos // batch_size)


class ResidentSource:
    """The whole selection on the device, uploaded once.

    Parameters
    ----------
    data : CropData
        Videos without a valid crop are dropped.
    frame : {"per_video", "absolute"}
        Geometry variant, derived once.
    device : torch.device
    seed : int

    Raises
    ------
    NoDataError
        With fewer than two readable videos: contrast needs another one.
    """

    def __init__(self, data: CropData, *, frame: GeometryFrame, device: torch.device, seed: int) -> None:
        data = data.keep_readable()
        if len(data.features) < MIN_VIDEOS:
            raise NoDataError(
                f"expected at least {MIN_VIDEOS} videos with valid crops to train on, found {len(data.features)}; "
                "check the split, and `scale status` for videos that failed"
            )
        self._valid = data.valid
        self._video_ids, self._group_ids = data.video_ids, data.group_ids
        self._raw = data.raw_geometry
        self._features = send(data.features, device)
        self._more = tuple(send(x, device) for x in data.more_features)
        self._geometry = send(data.geometry(frame), device)
        self._seed = seed

    @property
    def num_videos(self) -> int:
        """Videos an epoch."""
        return self._features.shape[0]

    @property
    def input_dim(self) -> int:
        """Channels D."""
        return self._features.shape[2]

    @property
    def input_dims(self) -> tuple[int, ...]:
        """Channels of every stream."""
        return (self.input_dim, *(x.shape[2] for x in self._more))

    def channel_statistics(self, stream: int = 0) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of every channel over all valid crops."""
        return channel_statistics([((self._features, *self._more)[stream], self._valid)])

    def batches(self, epoch: int, batch_size: int, skip: int = 0) -> Iterator[CropBatch]:
        """Yield batches that point into the resident selection; nothing is copied."""
        generator = seeded(keyed(self._seed, epoch))
        order = torch.randperm(self.num_videos, generator=generator)
        size = min(batch_size, self.num_videos)
        for number in range(skip, num_batches(self.num_videos, batch_size)):
            chosen = order[number * size : (number + 1) * size]
            yield CropBatch(
                self._features,
                self._geometry,
                self._raw,
                chosen,
                self._valid.index_select(0, chosen),
                self._video_ids.index_select(0, chosen),
                self._group_ids.index_select(0, chosen),
                self._more,
            )


class StreamSource:
    """Blocks read one after another in bounded memory; a thread reads ahead and pins.

    Parameters
    ----------
    open_epoch : callable
        ``open_epoch(epoch, batch_size, skip) -> iterable of CropData``, shuffled by (seed, epoch), without the
        first `skip` batches.
    num_videos, input_dim : int
    frame : {"per_video", "absolute"}
    device : torch.device
    in_order : callable, optional
        ``in_order() -> iterable of CropData``: every row once, for statistics; needed where inputs are standardised.
    more_dims : tuple of int
        Channels of further streams.
    """

    def __init__(
        self,
        open_epoch: Callable[[int, int, int], Iterable[CropData]],
        *,
        num_videos: int,
        input_dim: int,
        frame: GeometryFrame,
        device: torch.device,
        in_order: Callable[[], Iterable[CropData]] | None = None,
        more_dims: tuple[int, ...] = (),
    ) -> None:
        self._more_dims = more_dims
        self._open_epoch = open_epoch
        self._in_order = in_order
        self._num_videos = num_videos
        self._input_dim = input_dim
        self._frame = frame
        self._device = device

    @property
    def num_videos(self) -> int:
        """Videos an epoch."""
        return self._num_videos

    @property
    def input_dim(self) -> int:
        """Channels D."""
        return self._input_dim

    @property
    def input_dims(self) -> tuple[int, ...]:
        """Channels of every stream."""
        return (self._input_dim, *self._more_dims)

    def channel_statistics(self, stream: int = 0) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of every channel over all valid crops; reads the selection once."""
        assert self._in_order is not None, "a stream without in_order cannot standardise its inputs"
        blocks = self._in_order()
        return channel_statistics(((d.features, *d.more_features)[stream], d.valid) for d in blocks)

    def batches(self, epoch: int, batch_size: int, skip: int = 0) -> Iterator[CropBatch]:
        """Yield batches; only full ones, unless the selection is smaller than a batch."""
        size = min(batch_size, self._num_videos)
        blocks = (b for b in self._open_epoch(epoch, size, skip) if len(b.features) == size)
        for data, features, geometry in read_ahead(self._prepared(blocks), PREFETCH_BATCHES):
            yield CropBatch(
                features.to(self._device, non_blocking=True),
                geometry.to(self._device, non_blocking=True),
                data.raw_geometry,
                torch.arange(size),
                data.valid,
                data.video_ids,
                data.group_ids,
                tuple(x.to(self._device, non_blocking=True) for x in data.more_features),
            )

    def _prepared(self, blocks: Iterable[CropData]) -> Iterator[tuple[CropData, Tensor, Tensor]]:
        for data in blocks:
            yield data, pinned(data.features, self._device), pinned(data.geometry(self._frame), self._device)


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Iterate with a thread that stays up to `depth` items ahead; its errors surface here."""
    buffer: queue.Queue[_Item[T] | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry: _Item[T] | _End) -> bool:
        while not stopped.is_set():
            try:
                buffer.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(_Item(item)):
                    return
            put(_End(None))
        except BaseException as err:  # handed to the consumer, which raises it
            put(_End(err))

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while isinstance(entry := buffer.get(), _Item):
            yield entry.value
        if entry.error is not None:
            raise entry.error
    finally:
        stopped.set()
        thread.join()
