"""A selection as a torch Dataset: alone, in batches, in spawned workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from aggregate import FeatureDataset
from pipeline import FeatureStore
from pipeline.errors import NotFoundError
from tests.support.stores import CROPS, FEATURE_SET, make_store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    labels = [None if i == 3 else "ba"[i % 2] for i in range(12)]
    return make_store(tmp_path / "s", num_videos=12, num_crops=3, dim=5, labels=labels)  # type: ignore[arg-type]


def test_items_are_the_rows_of_the_selection(store: FeatureStore) -> None:
    selection = store.dataset("toy").select("row >= 2")
    items, block = FeatureDataset(selection, CROPS, FEATURE_SET), selection.features(CROPS, FEATURE_SET)
    assert (len(items), items.classes) == (10, ("a", "b"))
    assert [items[i]["label"] for i in range(3)] == [1, -1, 1]
    together = items.__getitems__([5, 0, 5])
    assert [item["row"] for item in together] == [7, 2, 7]
    np.testing.assert_array_equal(together[0]["values"].numpy(), block.values[5])
    np.testing.assert_array_equal(items[5]["geometry"].numpy(), block.geometry[5])


def test_a_set_that_is_not_there_is_refused_at_once(store: FeatureStore) -> None:
    with pytest.raises(NotFoundError, match="fake"):
        FeatureDataset(store.dataset("toy").select(), CROPS, "nope")


@pytest.mark.slow
def test_a_loader_with_a_spawned_worker(store: FeatureStore) -> None:
    selection = store.dataset("toy").select()
    loader = DataLoader(
        FeatureDataset(selection, CROPS, FEATURE_SET), batch_size=5, num_workers=1, multiprocessing_context="spawn"
    )
    batches = list(loader)
    assert [len(batch["row"]) for batch in batches] == [5, 5, 2]
    values = torch.cat([batch["values"] for batch in batches])
    np.testing.assert_array_equal(values.numpy(), selection.features(CROPS, FEATURE_SET).values)
