"""Small stores with known content, for queries, imports and object stores (every room: see `stores.py`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline import FeatureStore, RowStatus
from pipeline.recipe import GridPolicy, RandomPolicy
from pipeline.recipe.crops import CropPolicyBase
from pipeline.storage.backend import StorageBackend
from pipeline.storage.schema import GEOMETRY_COLUMNS
from pipeline.store.dataset import Dataset

CROPS = "train4"
FEATURES = "toy"
NUM_CROPS = 4
DIM = 6
FINGERPRINT = {"backbone": {"name": "toy", "weights": "0" * 64}, "decoder": {"name": "pyav", "version": "18"}}


def policy(num_crops: int = NUM_CROPS) -> CropPolicyBase:
    return RandomPolicy(policy="random", num_crops=num_crops)


def grid_policy() -> CropPolicyBase:
    return GridPolicy(policy="grid", temporal=2, spatial=2)


def videos(start: int, stop: int, labels: Sequence[str] = ("run", "walk", "o'b; DROP TABLE x; --")) -> pa.Table:
    """Catalogue rows; video n has label n mod 3, split 1 train for even n, group n // 2."""
    n = range(start, stop)
    return pa.table(
        {
            "video_id": [f"clips/{i:04d}.mp4" for i in n],
            "uri": [f"/data/clips/{i:04d}.mp4" for i in n],
            "bytes": pa.array([1000 + i for i in n], pa.int64()),
            "sha256": [f"{i:064d}" for i in n],
            "duration_s": [1.0 + i / 10 for i in n],
            "num_frames": pa.array([30 + i for i in n], pa.int64()),
            "fps": [30.0] * len(n),
            "width": pa.array([320] * len(n), pa.int32()),
            "height": pa.array([240] * len(n), pa.int32()),
            "label": [labels[i % len(labels)] for i in n],
            "labels": pa.array([[labels[i % len(labels)]] for i in n], pa.list_(pa.string())),
            "splits": pa.array([[("1", "test" if i % 2 else "train")] for i in n], pa.map_(pa.string(), pa.string())),
            "group": [f"g{i // 2}" for i in n],
        }
    )


def values_of(rows: np.ndarray, num_crops: int = NUM_CROPS, dim: int = DIM, dtype: str = "float16") -> np.ndarray:
    """The features of a row are a function of its number."""
    grid = np.arange(num_crops * dim).reshape(num_crops, dim)
    return (rows[:, None, None] + grid / 64).astype(dtype)


def valid_of(rows: np.ndarray, num_crops: int = NUM_CROPS) -> np.ndarray:
    """Every fifth row lacks its last crop."""
    valid = np.ones((len(rows), num_crops), bool)
    valid[rows % 5 == 4, -1] = False
    return valid


def geometry_of(rows: np.ndarray, num_crops: int = NUM_CROPS) -> np.ndarray:
    geometry = np.zeros((len(rows), num_crops, len(GEOMETRY_COLUMNS)), np.float32)
    geometry[..., 0] = np.arange(num_crops)
    geometry[..., 1] = np.arange(num_crops) + 1
    geometry[..., 4:6] = 100 + rows[:, None, None] % 50
    geometry[..., 7] = 4
    return geometry


def extract(
    dataset: Dataset,
    crops: str = CROPS,
    feature_set: str = FEATURES,
    *,
    shards: Sequence[int] | None = None,
    on_shard: Callable[[int], None] = lambda shard: None,
) -> int:
    """Stand in for the extract stage; return how many shards it wrote."""
    num_crops = dataset.crop_policy(crops).num_crops
    writer = dataset.writer(crops, feature_set, fingerprint=FINGERPRINT, dim=DIM)
    done = 0
    for task in writer.todo(shards):
        claim = writer.claim(task)
        if claim is None:
            continue
        with claim:
            valid = valid_of(task.rows, num_crops)
            lines = [
                RowStatus(int(row), "ok" if good.all() else "partial", "" if good.all() else "stopped early")
                for row, good in zip(task.rows, valid, strict=True)
            ]
            geometry = geometry_of(task.rows, num_crops)
            writer.write(task, values_of(task.rows, num_crops), valid, geometry, lines, seconds=0.5)
        on_shard(task.shard)
        done += 1
    return done


def make_store(
    url: str | Path | StorageBackend, num_videos: int = 10, shard_rows: int = 4, name: str = "toy"
) -> FeatureStore:
    """A store with one data set and all its features."""
    store = FeatureStore.create(url)
    dataset = store.create_dataset(name, shard_rows=shard_rows)
    dataset.append_videos(videos(0, num_videos))
    dataset.define_crop_set(CROPS, policy())
    extract(dataset)
    return store


def check_features(dataset: Dataset, crops: str = CROPS, feature_set: str = FEATURES) -> None:
    """Every row reads as it was written."""
    block = dataset.select().features(crops, feature_set)
    rows = np.arange(dataset.num_rows)
    valid = valid_of(rows)
    np.testing.assert_array_equal(block.valid, valid)
    np.testing.assert_array_equal(block.values, np.where(valid[..., None], values_of(rows), 0))
    np.testing.assert_array_equal(block.geometry, geometry_of(rows))
