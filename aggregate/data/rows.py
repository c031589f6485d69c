"""Which rows a model is trained on, and their crops as a source of batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from aggregate.data.arrays import as_tensor
from aggregate.data.loader import BatchSource, CropData, ResidentSource, StreamSource
from pipeline.errors import NoDataError
from pipeline.recipe import TrainSpec
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
    if spec.rows == "all":
        selection = dataset.select()
    else:
        name = spec.split.replace("'", "''")
        selection = dataset.select(f"splits['{name}'] = 'train'")
    if len(selection) == 0:
        known = sorted({key for row in dataset.videos["splits"].to_pylist() if row for key, _ in row})
        raise NoDataError(
            f"expected rows that split {spec.split!r} marks as train, found none among {dataset.num_rows} videos "
            f"(splits of the catalogue: {', '.join(known) or 'none'}); "
            "name another split, or set `rows: all` to train on every video (transductive)"
        )
    status = dataset.status(spec.crops, spec.backbone)["status"]
    readable = pc.is_in(status, value_set=pa.array(HAS_CROPS)).to_numpy(zero_copy_only=False)
    rows = selection.rows[readable[selection.rows]]
    if len(rows) == 0:
        raise NoDataError(
            f"expected features {spec.crops}/{spec.backbone} of the {len(selection)} chosen rows, found none; "
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


def make_source(dataset: Dataset, rows: np.ndarray, spec: TrainSpec, device: torch.device) -> BatchSource:
    """Upload the selection once where it fits beside the model, else stream it.

    Parameters
    ----------
    dataset : pipeline.Dataset
    rows : ndarray
        (n,) int64, ascending.
    spec : TrainSpec
    device : torch.device
    """
    selection = dataset.select(rows=rows)
    info = dataset.feature_info(spec.crops, spec.backbone)
    itemsize = np.dtype(info.dtype).itemsize
    num_bytes = len(rows) * info.num_crops * (info.dim * itemsize + 4 * (len(GEOMETRY_COLUMNS) + 7))
    if num_bytes <= RESIDENT_SHARE * free_bytes(device):
        block = selection.features(spec.crops, spec.backbone)
        data = _crop_data(block, group_ids(selection.videos), frame_sizes(selection.videos))
        return ResidentSource(data, frame=spec.model.geometry_frame, device=device, seed=spec.seed)
    return stream_source(selection, spec, info.dim, device)


def stream_source(selection: Selection, spec: TrainSpec, dim: int, device: torch.device) -> StreamSource:
    """Read blocks in bounded memory; the order depends on (seed, epoch) alone."""
    groups, sizes = group_ids(selection.videos), frame_sizes(selection.videos)

    def open_epoch(epoch: int, batch_size: int, skip: int) -> Iterator[CropData]:
        batches = selection.batches(
            spec.crops, spec.backbone, batch_size=batch_size, shuffle=True, seed=spec.seed, epoch=epoch, drop_last=True,
            start_batch=skip,
        )  # fmt: skip
        for block in batches:
            at = np.searchsorted(selection.rows, block.rows)
            yield _crop_data(block, groups[at], sizes[torch.from_numpy(at)])

    return StreamSource(
        open_epoch, num_videos=len(selection), input_dim=dim, frame=spec.model.geometry_frame, device=device
    )


def _crop_data(block: FeatureBlock, groups: np.ndarray, sizes: Tensor) -> CropData:
    """Wrap a block; it is copied only where its memory is the store's (read only), not where it is the batch's own."""
    values, geometry, valid, rows, group = (
        as_tensor(name, array)
        for name, array in (
            ("features", block.values),
            ("raw geometry", block.geometry),
            ("valid", block.valid),
            ("rows", block.rows),
            ("group_ids", groups),
        )
    )
    return CropData(values, geometry, valid, rows, group, sizes)


def free_bytes(device: torch.device) -> int:
    """Memory of the device that nobody uses now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
