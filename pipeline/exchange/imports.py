"""Bringing features that were made elsewhere into a store: one loop for every foreign format.

The result is an ordinary feature set. Its fingerprint says that it was imported and from which bytes, so it never
mixes with features extracted here unless their fingerprints are equal in every field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import AlreadyExistsError, ShapeMismatchError
from pipeline.recipe.crops import CropPolicyBase
from pipeline.sets.ledger_entry import RowStatus
from pipeline.status import VideoStatus
from pipeline.storage.schema import GEOMETRY_COLUMNS, PENDING

if TYPE_CHECKING:
    from pipeline.sets.handles import StoreHandle


@dataclass(frozen=True)
class ForeignFeatures:
    """Features in some other format, readable a few rows at a time."""

    videos: pa.Table
    """Catalogue columns (at least video_id), one row a video, in the order of the positions that `read` takes."""
    policy: CropPolicyBase
    fingerprint: Mapping[str, Any]
    num_crops: int
    dim: int
    dtype: str
    """float16 or float32: how they are stored."""
    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]
    """Positions (n,) ascending -> values (n, V, D), valid (n, V), geometry (n, V, 9)."""
    statuses: Mapping[int, tuple[str, str]] | None = None
    """Status and error of a position where the format holds them; ``pending`` positions are left out."""
    recipe: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did."""

    dataset: str
    crops: str
    feature_set: str
    videos_new: int
    videos_known: int
    shards_written: int
    shards_skipped: int
    """Already there, or being written by somebody else."""
    rows_written: int
    rows_non_finite: int
    """Rows with crops that were NaN or infinite (or beyond float16); those crops are masked."""


def import_features(
    store: StoreHandle,
    source: ForeignFeatures,
    *,
    dataset: str,
    crops: str,
    feature_set: str,
    shard_rows: int | None = None,
) -> ImportReport:
    """Write foreign features into a store. Running it again, also after a kill, does only what is missing.

    Parameters
    ----------
    store : FeatureStore
        Open for writing.
    source : ForeignFeatures
    dataset, crops, feature_set : str
        Names in the store; created where they are not there.
    shard_rows : int, optional
        For a new dataset; the store's default otherwise.

    Raises
    ------
    ConflictError
        If a name stands for something else already: another crop policy, other fingerprint, changed videos.
    ShapeMismatchError
        If the source contradicts itself.
    """
    if dataset in store.datasets():
        ds = store.dataset(dataset)
    else:
        ds = (
            store.create_dataset(dataset)
            if shard_rows is None
            else store.create_dataset(dataset, shard_rows=shard_rows)
        )
    ids = source.videos["video_id"].to_pylist()
    if len(set(ids)) != len(ids):
        raise ShapeMismatchError(f"expected {len(ids)} different video ids, found {len(set(ids))}; give each its own")
    appended = ds.append_videos(source.videos)
    ds = ds.refresh()
    ds.define_crop_set(crops, source.policy)
    writer = ds.writer(
        crops,
        feature_set,
        fingerprint=dict(source.fingerprint),
        dim=source.dim,
        dtype=source.dtype,
        recipe=source.recipe,
    )
    statuses = source.statuses or {}
    position_of = {video_id: n for n, video_id in enumerate(ids) if statuses.get(n, ("",))[0] != PENDING}
    positions = np.array([position_of.get(video_id, -1) for video_id in ds.by_row["video_id"].to_pylist()], np.int64)
    written = skipped = rows_written = rows_bad = 0
    tasks = writer.todo()
    for task in tasks:
        has = positions[task.rows] >= 0
        if not has.any():
            continue
        claim = writer.claim(task)
        if claim is None:
            skipped += 1
            continue
        with claim:
            values, valid, geometry, lines = _read_rows(source, task.rows, positions[task.rows])
            try:
                writer.write(task, values, valid, geometry, lines, device="import")
            except AlreadyExistsError:
                skipped += 1
                continue
        written += 1
        rows_written += int(has.sum())
        rows_bad += sum(line.status == VideoStatus.NON_FINITE for line in lines)
    return ImportReport(
        dataset,
        crops,
        feature_set,
        appended.num_new,
        appended.num_known,
        written,
        skipped + (ds.num_shards - len(tasks)),
        rows_written,
        rows_bad,
    )


def _read_rows(
    source: ForeignFeatures, rows: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[RowStatus]]:
    """Return what the writer takes for all `rows`; those with position -1 stay pending."""
    n, num_crops = len(rows), source.num_crops
    values = np.zeros((n, num_crops, source.dim), source.dtype)
    valid = np.zeros((n, num_crops), bool)
    geometry = np.zeros((n, num_crops, len(GEOMETRY_COLUMNS)), np.float32)
    lost = np.zeros((n, num_crops), bool)
    there = np.flatnonzero(positions >= 0)
    there = there[np.argsort(positions[there], kind="stable")]
    raw, claimed, boxes = source.read(positions[there])
    expected = tuple((len(there), *array.shape[1:]) for array in (values, valid, geometry))
    if (raw.shape, claimed.shape, boxes.shape) != expected:
        raise ShapeMismatchError(
            f"expected values, valid and geometry of shapes {expected}, found {(raw.shape, claimed.shape, boxes.shape)}"
        )
    with np.errstate(over="ignore"):  # what float16 cannot hold becomes infinite, and is masked like any infinity
        stored = raw.astype(source.dtype)
    finite = np.isfinite(stored).all(axis=2)
    valid[there] = claimed & finite
    lost[there] = claimed & ~finite
    values[there] = np.where(valid[there][:, :, None], stored, 0)
    geometry[there] = boxes
    lines = [
        _status_of(source, int(row), int(position), valid[i], lost[i])
        for i, (row, position) in enumerate(zip(rows, positions, strict=True))
    ]
    return values, valid, geometry, lines


def _status_of(source: ForeignFeatures, row: int, position: int, good: np.ndarray, lost: np.ndarray) -> RowStatus:
    num_valid = int(good.sum())
    status, error = str(VideoStatus.OK), ""
    if position < 0:
        status = PENDING
    elif lost.any():
        status, error = VideoStatus.NON_FINITE, f"{int(lost.sum())} of {len(lost)} crops were not finite in the import"
    elif source.statuses is not None and position in source.statuses:
        status, error = source.statuses[position]
    elif num_valid < len(good):
        status, error = VideoStatus.PARTIAL, f"{num_valid} of {len(good)} crops in the import"
    return RowStatus(row, status, error=error, num_valid=num_valid)
