"""Which rows a model is trained on, and their crops as a source of batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from aggregate.data.arrays import as_tensor
from aggregate.data.loader import BatchSource, CropData, ResidentSource, StreamSource
from pipeline.compute.memory import free_bytes
from pipeline.errors import InvalidInputError, NoDataError
from pipeline.products.model import rows_to_train
from pipeline.recipe import TrainSpec
from pipeline.recipe.training import MovingCrops
from pipeline.status import VideoStatus
from pipeline.storage.schema import GEOMETRY_COLUMNS

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureBlock, Selection

HAS_CROPS = (
    VideoStatus.OK.value,
    VideoStatus.PARTIAL.value,
    VideoStatus.DAMAGED.value,
    VideoStatus.TOO_SHORT.value,
    VideoStatus.NON_FINITE.value,
)
"""Statuses that may leave valid crops."""
ROWS_PER_READ = 1024
RESIDENT_SHARE = 0.5
"""Of the free memory of the device that a resident selection may take."""


@dataclass(frozen=True)
class TrainRows:
    """The rows a model may see.

    Attributes
    ----------
    rows : ndarray
        (n,) int64: chosen by the rows policy, with features.
    num_chosen : int
        Before rows without features were left out.
    """

    rows: np.ndarray
    num_chosen: int


def choose_rows(dataset: Dataset, spec: TrainSpec) -> TrainRows:
    """Apply the rows policy: the split's training rows (inductive), or all (transductive).

    Raises
    ------
    NoDataError
        If the split marks no row as train, or none of them has features.
    """
    selection = rows_to_train(dataset, spec)
    if len(selection) == 0:
        known = sorted({key for row in dataset.videos["splits"].to_pylist() if row for key, _ in row})
        raise NoDataError(
            f"expected rows that split {spec.split!r} marks as train, found none among {dataset.num_rows} videos "
            f"(splits of the catalogue: {', '.join(known) or 'none'}); "
            "name another split, or set `rows: all` to train on every video (transductive)"
        )
    parts = dataset.status_parts(spec.crops, spec.feature_set)
    readable = [pc.is_in(part["status"], value_set=pa.array(HAS_CROPS)).to_numpy() for part in parts]
    rows = selection.rows[np.concatenate(readable)[selection.rows]]
    if len(rows) == 0:
        raise NoDataError(
            f"expected features {spec.crops}/{spec.feature_set} of the {len(selection)} chosen rows, found none; "
            "run extract first, and look at `scale status` for videos that failed"
        )
    return TrainRows(rows, len(selection))


def group_ids(videos: pa.Table) -> np.ndarray:
    """Return (n,) int64: the same number for the same group; a video without a group is its own."""
    codes = pc.dictionary_encode(videos["group"].combine_chunks()).indices
    own = pa.array(-1 - videos["row"].to_numpy())
    return pc.coalesce(codes.cast(pa.int64()), own).to_numpy(zero_copy_only=False)


def frame_sizes(videos: pa.Table) -> Tensor:
    """(n, 2) float32: height and width of each video in pixels; 0 where unknown."""
    columns = [pc.fill_null(videos[name], 0).to_numpy() for name in ("height", "width")]
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def make_source(
    dataset: Dataset, rows: np.ndarray, spec: TrainSpec, device: torch.device, *, resident_bytes: int | None = None
) -> BatchSource:
    """Upload the selection once where it fits beside the model, else stream it.

    Parameters
    ----------
    dataset : pipeline.Dataset
    rows : ndarray
        (n,) int64, ascending.
    spec : TrainSpec
    device : torch.device
    resident_bytes : int, optional
        How much may be uploaded; by default half of what the device has free.
    """
    selection = dataset.select(rows=rows)
    infos = [dataset.feature_info(*pair) for pair in spec.reads]
    per_crop = sum(info.dim * np.dtype(info.dtype).itemsize for info in infos) + 4 * (len(GEOMETRY_COLUMNS) + 7)
    limit = RESIDENT_SHARE * free_bytes(device) if resident_bytes is None else resident_bytes
    if len(rows) * infos[0].num_crops * per_crop <= limit:
        blocks = [selection.features(*pair) for pair in spec.reads]
        data = _crop_data(blocks, group_ids(selection.videos), frame_sizes(selection.videos), spec)
        return ResidentSource(data, frame=spec.model.geometry_frame, device=device, seed=spec.seed)
    dims = tuple(info.dim for info in infos[: len(spec.learned_from)])
    return stream_source(selection, spec, dims[0], device, dims[1:])


def stream_source(
    selection: Selection, spec: TrainSpec, dim: int, device: torch.device, more_dims: tuple[int, ...] = ()
) -> StreamSource:
    """Read blocks in bounded memory; the order depends on (seed, epoch) alone."""
    groups, sizes = group_ids(selection.videos), frame_sizes(selection.videos)

    def open_epoch(epoch: int, batch_size: int, skip: int) -> Iterator[CropData]:
        streams = [
            selection.batches(
                *pair,
                batch_size=batch_size,
                shuffle=True,
                seed=spec.seed,
                epoch=epoch,
                drop_last=True,
                start_batch=skip,
            )
            for pair in spec.reads
        ]
        for blocks in zip(*streams, strict=True):
            at = np.searchsorted(selection.rows, blocks[0].rows)
            yield _crop_data(blocks, groups[at], sizes[torch.from_numpy(at)], spec)

    def in_order() -> Iterator[CropData]:
        for begin in range(0, len(selection.rows), ROWS_PER_READ):
            rows = selection.rows[begin : begin + ROWS_PER_READ]
            part = selection.at(np.arange(begin, begin + len(rows)))
            blocks = [part.features(*pair) for pair in spec.reads]
            yield _crop_data(blocks, groups[begin : begin + len(rows)], sizes[begin : begin + len(rows)], spec)

    return StreamSource(
        open_epoch,
        num_videos=len(selection),
        input_dim=dim,
        frame=spec.model.geometry_frame,
        device=device,
        in_order=in_order,
        more_dims=more_dims,
    )


def _crop_data(blocks: Sequence[FeatureBlock], groups: np.ndarray, sizes: Tensor, spec: TrainSpec) -> CropData:
    """Wrap the blocks of all streams; copied only where their memory is the store's (read only).

    Raises
    ------
    InvalidInputError
        If the streams do not show the same boxes at the same times.
    """
    block = blocks[0]
    valid = np.asarray(block.valid)
    for pair, other in zip(spec.reads[1:], blocks[1:], strict=True):
        both = valid & np.asarray(other.valid) if other.valid.shape == valid.shape else None
        if both is None or geometry_digest(block, both) != geometry_digest(other, both):
            names = " and ".join("/".join(p) for p in (spec.reads[0], pair))
            raise InvalidInputError(
                f"expected the same boxes and times in {names}, found others; streams that are trained together "
                "are extracted from one crop set"
            )
        valid = both
    streams = blocks[: len(spec.learned_from)]
    if spec.moving is not None:
        valid = most_moving(np.asarray(blocks[-1].values), valid, spec.moving)
    values, geometry, mask, rows, group = (
        as_tensor(name, array)
        for name, array in (
            ("features", block.values),
            ("raw geometry", block.geometry),
            ("valid", valid),
            ("rows", block.rows),
            ("group_ids", groups),
        )
    )
    more = tuple(as_tensor("features", other.values) for other in streams[1:])
    return CropData(values, geometry, mask, rows, group, sizes, more)


def most_moving(score_NV1: np.ndarray, valid_NV: np.ndarray, moving: MovingCrops) -> np.ndarray:
    """Return which crops are dealt, (N, V) bool: the wanted share of each video's valid ones, by their score.

    Raises
    ------
    InvalidInputError
        If the feature set is no score.
    """
    if score_NV1.shape[-1] != 1:
        raise InvalidInputError(
            f"expected one channel in {moving.by}, a motion score, found {score_NV1.shape[-1]}; name a feature set of "
            "a backbone of the kind motion"
        )
    score = np.where(valid_NV, score_NV1[..., 0].astype(np.float32), -np.inf)
    rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1, kind="stable")
    wanted = np.ceil(moving.share * valid_NV.sum(axis=1) - 1e-9)
    return valid_NV & (rank < wanted[:, None])


def geometry_digest(block: FeatureBlock, valid: np.ndarray) -> str:
    """Return a hash of rows, and of boxes and times of the valid crops."""
    content = np.where(valid[..., None], np.asarray(block.geometry), 0).astype(np.float32) + 0.0
    return hashlib.sha256(np.asarray(block.rows).tobytes() + content.tobytes()).hexdigest()
