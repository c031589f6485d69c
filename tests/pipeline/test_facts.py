"""Facts that come late or change: the row is pending in every set at once, and nothing of the file before is served."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import FeatureStore, RowStatus
from pipeline.errors import InvalidInputError, SnapshotChangedError, WrongVideoError
from pipeline.storage.backend_local import LocalBackend
from pipeline.store.compact import compact_store
from pipeline.store.dataset import Dataset
from pipeline.store.facts import FACT_COLUMNS
from pipeline.verify.verify_store import verify_store
from tests.support import damage as world
from tests.support.damage import NoSync, Pristine, V, values_of
from tests.support.toy_stores import geometry_of

ROW, FEATURES = 1, ("f", "g")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(world, "FEATURES", {"a": FEATURES})
        patched.setattr(world, "ARTIFACTS", {})
        backend = LocalBackend(tmp_path_factory.mktemp("pristine") / "s", NoSync())
        return Pristine.make(backend, ({"toy": 3}, {"toy": 5}))


@pytest.fixture
def store(tmp_path: Path, pristine: Pristine) -> FeatureStore:
    backend = LocalBackend(tmp_path / "s", NoSync())
    pristine.put(backend)
    return FeatureStore.open(backend, "a")


def facts(dataset: Dataset, row: int, mark: str) -> dict[int, dict[str, Any]]:
    held = dataset.by_row.select(FACT_COLUMNS).slice(row, 1).to_pylist()[0]
    sha256 = hashlib.sha256(mark.encode()).hexdigest()
    return {row: held | {"sha256": sha256, "uri": f"file:///{mark}.mp4", "num_frames": 7}}


def redo(dataset: Dataset, crops: str, feature_set: str, salt: str, boxes: int) -> None:
    """Do what is pending of a set, as extraction of the new file would."""
    writer = dataset.writer(crops, feature_set, {"backbone": f"{crops}{feature_set}"}, 3)
    for task in writer.todo():
        numbers = task.rows + boxes
        lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
        writer.write(
            task, values_of(numbers, salt), np.ones((len(task), V), bool), geometry_of(numbers, V), lines
        )  # fmt: skip


def test_a_replaced_file_leaves_every_set_at_once_and_is_made_anew(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    old = dataset.select().features("a", "f")
    before, pinned, snapshot = old.values.copy(), store.dataset("toy"), dataset.snapshot()
    values_file = next(Path(store.url).rglob("a/features/f/values/c.0.0.0"))
    bytes_before = values_file.read_bytes()
    assert dataset.rows_with_features([0, ROW]) == [0, ROW]
    assert dataset.change_facts(facts(dataset, ROW, "new")) == 1
    assert dataset.change_facts(facts(dataset, ROW, "new")) == 0  # it is said already
    for seen in (dataset, store.dataset("toy"), pickle.loads(pickle.dumps(dataset))):
        assert seen.by_row["num_frames"][ROW].as_py() == 7
        assert seen.rows_with_features([0, ROW]) == [0]
        for name in FEATURES:
            assert [seen.status("a", name)["status"][r].as_py() for r in (0, ROW)] == ["ok", "pending"]
            block = seen.select().features("a", name)
            assert not block.valid[ROW].any()
            assert not block.values[ROW].any()
            assert block.valid[[0, 2, 3, 4]].all()
        assert seen.embedding_status("e")["status"][ROW].as_py() == "pending"
    assert values_file.read_bytes() == bytes_before  # nothing is touched until it is made again
    assert store.dataset("toy").snapshot() != snapshot == pinned.snapshot()
    np.testing.assert_array_equal(pinned.select().features("a", "f").values, before)
    assert verify_store(store, ["toy"]).problems == ()

    redo(store.dataset("toy"), "a", "f", "new", boxes=50)  # other boxes: its sibling g still holds the old ones
    now = store.dataset("toy")
    block = now.select().features("a", "f")
    np.testing.assert_array_equal(block.values[ROW], values_of(np.array([ROW + 50]), "new")[0])
    np.testing.assert_array_equal(block.geometry[ROW], geometry_of(np.array([ROW + 50]), V)[0])
    rest = [0, 2, 3, 4]
    np.testing.assert_array_equal(block.values[rest], before[rest])
    assert now.status("a", "g")["status"][ROW].as_py() == "pending"
    assert now.select(rows=rest).features("a", "g").valid.all()
    with pytest.raises(SnapshotChangedError):  # its geometry is another file's now
        pinned.select().features("a", "g")
    assert verify_store(store, ["toy"]).problems == ()
    redo(now, "a", "g", "new", boxes=50)
    assert store.dataset("toy").status("a", "g")["status"].to_pylist() == ["ok"] * 5


def test_packed_entries_are_held_to_the_state_of_their_rows_too(store: FeatureStore) -> None:
    compact_store(store, min_loose=1)
    dataset = store.dataset("toy")
    assert not dataset.writer("a", "f", {"backbone": "af"}, 3).todo()
    dataset.change_facts(facts(dataset, ROW, "new"))
    (task,) = dataset.writer("a", "f", {"backbone": "af"}, 3).todo()
    assert task.rows.tolist() == [ROW]
    assert dataset.feature_info("a", "f").num_shards_done == 1


def test_a_writer_that_saw_the_file_before_vouches_for_nothing(store: FeatureStore) -> None:
    """An extraction that began before the replacement and commits after it: its row is pending all the same."""
    slow = store.dataset("toy")
    writer = slow.writer("a", "f", {"backbone": "af"}, 3)
    store.dataset("toy").change_facts(facts(slow, ROW, "new"))
    (task, *_) = writer.todo(retry=["ok"])
    lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
    writer.write(task, values_of(task.rows + 9, "old"), np.ones((len(task), V), bool),
                 slow.select(rows=task.rows).features("a", "f").geometry, lines)  # fmt: skip
    status = store.dataset("toy").status("a", "f")["status"].to_pylist()
    assert status == ["ok", "pending", "ok", "ok", "ok"]


def test_a_facts_file_is_copied_checked_and_missed(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    dataset.change_facts(facts(dataset, ROW, "new"))
    redo(store.dataset("toy"), "a", "f", "new", boxes=50)
    key, copy = "toy/catalog/facts-0.parquet", "toy/catalog/_copies/facts-0.parquet"
    data = store.backend.read(key)
    assert store.backend.read(copy) == data
    for damaged in (data[:-9], store.backend.read("toy/catalog/videos-1.parquet")):
        store.backend.put(key, damaged)
        assert FeatureStore.open(store.backend).dataset("toy").by_row["num_frames"][ROW].as_py() == 7
        assert [p.where for p in verify_store(store, ["toy"]).problems] == [key]
        assert verify_store(store, ["toy"], repair=True).is_clean
        assert store.backend.read(key) == data
    store.backend.delete(key)
    store.backend.delete(copy)
    with pytest.raises(WrongVideoError):  # made from a file of which nothing is known: nobody is given it
        store.dataset("toy").select().features("a", "f")
    assert "other videos" in {p.kind for p in verify_store(store, ["toy"]).problems}


@pytest.mark.parametrize("name", ["facts-1", "facts-7", "labels-0", "removed-3"])
def test_a_side_file_under_another_name_is_set_aside(store: FeatureStore, name: str) -> None:
    dataset = store.dataset("toy")
    dataset.change_facts(facts(dataset, ROW, "new"))
    key = f"toy/catalog/{name}.parquet"
    store.backend.put(key, store.backend.read("toy/catalog/facts-0.parquet"))
    assert key in [problem.where for problem in verify_store(store, ["toy"]).problems]
    assert verify_store(store, ["toy"], repair=True).is_clean
    assert store.dataset("toy").by_row["num_frames"][ROW].as_py() == 7
    assert verify_store(store, ["toy"]).problems == ()


def test_facts_are_whole_lines_of_known_rows(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    with pytest.raises(InvalidInputError, match="probe_error"):
        dataset.change_facts({ROW: {"sha256": "0" * 64}})
    with pytest.raises(InvalidInputError):
        dataset.change_facts(facts(dataset, ROW, "x") | {99: facts(dataset, ROW, "x")[ROW]})
    dataset.remove_videos([2])
    assert dataset.change_facts(facts(store.dataset("toy"), 2, "x")) == 0
