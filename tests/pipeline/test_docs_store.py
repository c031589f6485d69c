"""The examples of docs/store.md run, in its order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import FeatureStore
from tests.support.toy_stores import extract, policy, videos

DOC = Path(__file__).parents[2] / "docs" / "store.md"


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.chdir(tmp_path)
    store = FeatureStore.create("store")
    dataset = store.create_dataset("jhmdb", shard_rows=4)
    dataset.append_videos(videos(0, 6))
    dataset.define_crop_set("train16", policy(16))
    extract(dataset, "train16", "x3d_xs")
    store.dataset("jhmdb").append_videos(videos(6, 10))
    extract(store.dataset("jhmdb"), "train16", "x3d_xs")
    return store


def test_every_example_runs(there: FeatureStore, tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", DOC.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, Any] = {}
    seen: list[dict[str, Any]] = []
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), names)
        seen.append(dict(names))
    plain, arrow, duck, ours = seen
    block = there.dataset("jhmdb").select(rows=[5]).features("train16", "x3d_xs")
    np.testing.assert_array_equal(plain["values"], block.values[0])
    np.testing.assert_array_equal(plain["geometry"][5], block.geometry[0])
    assert arrow["videos"].num_rows == arrow["ledger"].num_rows == 10
    assert sorted(arrow["ledger"]["row"].to_pylist()) == list(range(10))
    assert [row for (row,) in duck["train"]] == [0, 2, 4, 6, 8]
    assert ours["counts"].num_rows == 3
    assert ours["block"].rows.tolist() == [0, 4, 6]
    assert ours["mean"].compute(scheduler="synchronous").shape == (3, 6)
    assert (tmp_path / "train.h5").is_file()


def test_the_tree_on_the_page_is_the_tree_on_disk(there: FeatureStore) -> None:
    keys = [key for key, _ in there.backend.list()]
    for shown in (
        "zarr.json", "jhmdb/zarr.json", "jhmdb/catalog/videos-0.parquet", "jhmdb/catalog/_copies/videos-0.parquet",
        "jhmdb/crops/train16/zarr.json", "jhmdb/crops/train16/geometry/zarr.json",
        "jhmdb/crops/train16/features/x3d_xs/values/c.0.0.0", "jhmdb/crops/train16/ledger/x3d_xs/0-0.parquet",
    ):  # fmt: skip
        assert shown in keys
