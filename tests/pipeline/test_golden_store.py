"""A store that an older version wrote stays readable; one that a newer version wrote says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import SchemaVersionError, StorageError
from pipeline.storage.schema import SCHEMA_VERSION
from pipeline.store.upgrade import upgrade_store
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.stores import CROPS, FEATURE_SET, fill, make_geometry, make_values

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_golden_store_is_readable(version: int) -> None:
    store = FeatureStore.open(GOLDEN / f"store_v{version}")
    ds = store.dataset("toy")
    assert ds.videos["label"].to_pylist() == ["run", "walk", "run", "walk", "run", "sit", "sit"]
    block = ds.select().features(CROPS, FEATURE_SET)
    values, boxes = make_values(np.arange(7), 2, 3).astype(np.float16), make_geometry(np.arange(7), 2)
    values[1] = boxes[1] = 0
    np.testing.assert_array_equal(block.values, values)
    np.testing.assert_array_equal(block.geometry, boxes)
    assert ds.status(CROPS, FEATURE_SET)["status"].to_pylist() == ["ok", "unreadable", "ok", "ok", "ok", "ok", "ok"]
    assert ds.select("splits['1'] = 'train'").rows.tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(ds.select().embeddings("scale").values, np.arange(14).reshape(7, 2))
    assert ds.artifact("models", "scale").read("weights.bin") == b"golden"
    assert verify_store(store).problems == ()


def test_golden_store_can_still_be_written(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / f"store_v{SCHEMA_VERSION}", tmp_path / "s")
    store = FeatureStore.open(tmp_path / "s", "a")
    assert fill(store, dim=3, retry=["unreadable"]) == 1
    assert store.dataset("toy").select().features(CROPS, FEATURE_SET).valid.all()


def test_a_store_of_schema_1_is_upgraded_before_it_is_written(tmp_path: Path) -> None:
    """It changes no array byte and no snapshot, dies at any step and goes on; then the store can be written."""
    counter = FaultPlan(kinds=("put", "create", "delete"))
    for at in (None, *range(0, 16, 3)):
        folder = tmp_path / f"{at}"
        shutil.copytree(GOLDEN / "store_v1", folder)
        with pytest.raises(SchemaVersionError, match="scale upgrade"):
            FeatureStore.open(folder, "a")
        before = {p: p.read_bytes() for p in folder.rglob("c.*")}
        snapshot = FeatureStore.open(folder).dataset("toy").snapshot()
        if at is None:
            upgrade_store(FaultyLocalBackend(folder, counter))
        else:
            with pytest.raises(StorageError):
                upgrade_store(FaultyLocalBackend(folder, FaultPlan(at=at, kinds=counter.kinds, forever=True)))
            assert FeatureStore.open(folder).dataset("toy").snapshot() == snapshot
            assert upgrade_store(folder).from_version == 1
        assert upgrade_store(folder).from_version == SCHEMA_VERSION
        assert {p: p.read_bytes() for p in folder.rglob("c.*")} == before
        store = FeatureStore.open(folder, "a")
        ds = store.dataset("toy")
        assert ds.snapshot() == snapshot
        assert all(e.video_keys is not None for e in ds.ledger(CROPS, FEATURE_SET).entries())
        assert verify_store(store).problems == ()
        assert fill(store, dim=3, retry=["unreadable"]) == 1
    assert counter.count == 16


def test_a_store_that_is_too_new_says_who_wrote_it(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / f"store_v{SCHEMA_VERSION}", tmp_path / "s")
    for place in ("zarr.json", "toy/zarr.json"):
        content = json.loads((tmp_path / "s" / place).read_text())
        content["attributes"] |= {"schema_version": SCHEMA_VERSION + 1, "written_by": "9.9.9"}
        (tmp_path / "s" / place).write_text(json.dumps(content))
        with pytest.raises(SchemaVersionError, match=r"9\.9\.9"):
            FeatureStore.open(tmp_path / "s").dataset("toy")
        shutil.copy(GOLDEN / f"store_v{SCHEMA_VERSION}" / place, tmp_path / "s" / place)
