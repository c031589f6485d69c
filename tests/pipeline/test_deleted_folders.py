"""Folders that somebody deleted by hand: named by verify, and whole again after the next run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError
from pipeline.verify.verify_store import verify_store
from tests.support.stores import CROPS, FEATURE_SET, fill, fill_embeddings, make_store

VECTORS = np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill_embeddings(make_store(tmp_path / "s", num_videos=10), "scale", VECTORS)
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("deleted", "shards"),
    [
        (f"crops/{CROPS}/features/{FEATURE_SET}", 2),
        (f"crops/{CROPS}/features", 2),
        (f"crops/{CROPS}/ledger", 2),
        (f"crops/{CROPS}", 2),
        ("crops", 2),
        ("embeddings/scale", 0),
        ("embeddings", 0),
        ("catalog/_copies", 0),
    ],
)
def test_a_deleted_folder_is_named_and_made_again(folder: Path, deleted: str, shards: int) -> None:
    store = FeatureStore.open(folder, "a")
    ds = store.dataset("toy")
    values, policy = ds.select().features(CROPS, FEATURE_SET).values.copy(), ds.crop_policy(CROPS)
    shutil.rmtree(folder / "toy" / deleted)
    assert not verify_store(store).is_clean
    store.dataset("toy").define_crop_set(CROPS, policy)  # as every run does
    assert fill(store) == shards
    fill_embeddings(store, "scale", VECTORS)
    again = FeatureStore.open(folder).dataset("toy")
    np.testing.assert_array_equal(again.select().features(CROPS, FEATURE_SET).values, values)
    np.testing.assert_array_equal(again.select().embeddings("scale").values, VECTORS)
    assert verify_store(store).is_clean


def test_geometry_that_was_deleted_is_damage_and_made_again_after_a_repair(folder: Path) -> None:
    store = FeatureStore.open(folder, "a")
    shutil.rmtree(folder / "toy/crops" / CROPS / "geometry")
    assert fill(store) == 0  # the features stand, so nothing says that they are to do again
    with pytest.raises(CorruptDataError, match="verify --repair"):
        store.dataset("toy").select().features(CROPS, FEATURE_SET)
    verify_store(store, repair=True)
    assert fill(store) == 2
    assert store.dataset("toy").select().features(CROPS, FEATURE_SET).valid.all()
    assert verify_store(store).is_clean
