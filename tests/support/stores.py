"""Small synthetic stores: what tests of every room read, without a video or a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import EmbeddingWriter, FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy
from pipeline.storage.schema import GEOMETRY_COLUMNS

CROPS = "train16"
FEATURE_SET = "fake"
FINGERPRINT: dict[str, Any] = {
    "backbone": "fake",
    "weights": "0" * 64,
    "decoder": {"name": "none", "version": "1"},
    "dtype": "float16",
}


def video_table(
    num_videos: int,
    first: int = 0,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] | Sequence[Mapping[str, str]] | None = None,
    groups: Sequence[str] | None = None,
) -> pa.Table:
    """Return a catalogue table of made-up videos ``videos/000000.mp4``...; `first` shifts the numbers."""
    numbers = range(first, first + num_videos)
    if splits is not None:
        splits = [{"1": s} if isinstance(s, str) else dict(s) for s in splits]
    label_list = list(labels) if labels is not None else None
    return pa.table(
        {
            "video_id": [f"videos/{i:06d}.mp4" for i in numbers],
            "uri": [f"/data/videos/{i:06d}.mp4" for i in numbers],
            "bytes": pa.array([1000 + i for i in numbers], pa.int64()),
            "sha256": [f"{i:064x}" for i in numbers],
            "duration_s": [2.0 + (i % 7) / 4 for i in numbers],
            "num_frames": pa.array([60 + i % 7 for i in numbers], pa.int64()),
            "fps": [30.0] * num_videos,
            "width": pa.array([320] * num_videos, pa.int32()),
            "height": pa.array([240] * num_videos, pa.int32()),
            "rotation_deg": pa.array([0] * num_videos, pa.int32()),
            "codec": ["h264"] * num_videos,
            "label": pa.array(label_list or [None] * num_videos, pa.string()),
            "labels": pa.array([[x] for x in label_list] if label_list else [None] * num_videos, pa.list_(pa.string())),
            "splits": pa.array(
                [list(s.items()) for s in splits] if splits is not None else [None] * num_videos,
                pa.map_(pa.string(), pa.string()),
            ),
            "group": pa.array(list(groups) if groups is not None else [f"g{i}" for i in numbers], pa.string()),
            "probe_error": pa.array([None] * num_videos, pa.string()),
        }
    )


def make_geometry(rows: np.ndarray, num_crops: int) -> np.ndarray:
    """Return believable boxes, a pure function of the row: (n, V, 9) float32."""
    boxes = np.zeros((len(rows), num_crops, len(GEOMETRY_COLUMNS)), np.float32)
    for i, row in enumerate(np.asarray(rows).tolist()):
        rng = np.random.default_rng([7, row])
        start = rng.uniform(0, 1, num_crops)
        top, left = rng.uniform(0, 100, num_crops), rng.uniform(0, 200, num_crops)
        boxes[i] = np.stack(
            [start, start + 0.5, top, left, top + 112, left + 112, rng.integers(0, 2, num_crops),
             np.full(num_crops, 4.0), np.floor(start * 30)], axis=1,
        )  # fmt: skip
    return boxes


def make_values(rows: np.ndarray, num_crops: int, dim: int, salt: int = 0) -> np.ndarray:
    """Return features that differ for every row, a pure function of (row, salt): (n, V, D) float32."""
    return np.stack([np.random.default_rng([salt, r]).standard_normal((num_crops, dim)) for r in rows.tolist()]).astype(
        np.float32
    ) if len(rows) else np.zeros((0, num_crops, dim), np.float32)  # fmt: skip


def make_store(
    tmp_path: str | Path,
    num_videos: int = 24,
    num_crops: int = 4,
    dim: int = 16,
    labels: Sequence[str] | None = None,
    splits: Sequence[str] | Sequence[Mapping[str, str]] | None = None,
    groups: Sequence[str] | None = None,
    values: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    geometry: np.ndarray | None = None,
    statuses: Mapping[int, str] | None = None,
    dataset: str = "toy",
    crops: str = CROPS,
    feature_set: str = FEATURE_SET,
    shard_rows: int = 8,
    dtype: str = "float16",
    fingerprint: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> FeatureStore:
    """Return a store with one dataset and one feature set, filled.

    Parameters
    ----------
    tmp_path : str or Path
        Folder for the store (opened again if one is there).
    splits : sequence, optional
        ``"train"``/``"test"`` a video (becomes the split "1"), or a mapping split name -> side.
    values : ndarray of shape (num_videos, num_crops, dim), optional
        Otherwise :func:`make_values`.
    valid : ndarray of shape (num_videos, num_crops), bool, optional
    statuses : mapping of row to status, optional
        Rows that did not end as ok; `unreadable` and `missing` rows have no valid crop.
    """
    if values is not None:
        num_videos, num_crops, dim = values.shape
    store = FeatureStore.open_or_create(tmp_path)
    ds = store.create_dataset(dataset, shard_rows=shard_rows)
    ds.append_videos(video_table(num_videos, labels=labels, splits=splits, groups=groups))
    ds.define_crop_set(crops, RandomPolicy(policy="random", num_crops=num_crops))
    fill(
        store, dataset, crops, feature_set, dim, dtype=dtype, values=values, valid=valid, geometry=geometry,
        statuses=statuses, fingerprint=fingerprint, recipe=recipe,
    )  # fmt: skip
    return store


def fill(
    store: FeatureStore,
    dataset: str = "toy",
    crops: str = CROPS,
    feature_set: str = FEATURE_SET,
    dim: int = 16,
    dtype: str = "float16",
    values: np.ndarray | None = None,
    valid: np.ndarray | None = None,
    geometry: np.ndarray | None = None,
    statuses: Mapping[int, str] | None = None,
    fingerprint: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    retry: Sequence[str] = (),
    salt: int = 0,
) -> int:
    """Do everything that is missing in a feature set; return the number of shards written. Arrays go by row."""
    ds = store.dataset(dataset)
    num_crops = ds.crop_policy(crops).num_crops
    writer = ds.writer(
        crops, feature_set, dict(FINGERPRINT if fingerprint is None else fingerprint, dtype=dtype), dim, dtype,
        recipe=recipe,
    )  # fmt: skip
    done = 0
    for task in writer.todo(retry=retry):
        rows = task.rows
        good = np.ones((len(rows), num_crops), bool) if valid is None else valid[rows].copy()
        for i, row in enumerate(rows.tolist()):
            if (statuses or {}).get(row) in ("unreadable", "missing"):
                good[i] = False
        made = make_values(rows, num_crops, dim, salt) if values is None else values[rows]
        boxes = make_geometry(rows, num_crops) if geometry is None else geometry[rows]
        boxes = np.where(good.any(axis=1)[:, None, None], boxes, 0)
        texts = [(statuses or {}).get(row, "ok") for row in rows.tolist()]
        lines = [
            RowStatus(row, t, "" if t == "ok" else f"made {t}") for row, t in zip(rows.tolist(), texts, strict=True)
        ]
        writer.write(task, made, good, boxes, lines)
        done += 1
    return done


def fill_embeddings(
    store: FeatureStore,
    name: str,
    values: np.ndarray,
    dataset: str = "toy",
    fingerprint: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    dtype: str = "float32",
) -> EmbeddingWriter:
    """Write an embedding set from an array of shape (num_rows, E)."""
    writer = store.dataset(dataset).embedding_writer(
        name, fingerprint or {"model": name}, values.shape[1], dtype, attrs=attrs or {}
    )
    for task in writer.todo():
        lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
        writer.write(task, values[task.rows], np.ones(len(task), bool), lines)
    return writer
