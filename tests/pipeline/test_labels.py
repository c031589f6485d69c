"""Labels, splits and groups that change: what the catalogue says then, and what does not change."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import ConflictError, CorruptDataError, InvalidInputError, ShapeMismatchError
from pipeline.verify.verify_store import verify_store
from tests.support.stores import CROPS, FEATURE_SET, make_store, video_table


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make_store(
        tmp_path / "s", num_videos=10, labels=["a", "b"] * 5, splits=["train"] * 6 + ["test"] * 4, groups=["g"] * 10
    )


def array_bytes(store: FeatureStore) -> dict[str, bytes]:
    folder = Path(store.url) / "toy/crops"
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_new_labels_count_and_no_feature_byte_changes(store: FeatureStore) -> None:
    before, pinned = array_bytes(store), store.dataset("toy")
    features, old_snapshot = pinned.select().features(CROPS, FEATURE_SET).values.copy(), pinned.snapshot()
    dataset = store.dataset("toy")
    done = dataset.change_labels(
        {3: {"label": "c", "labels": ["c"]}, 4: {"splits": {"1": "test", "2": "train"}}, 5: {}}
    )
    assert (done.num_changed, done.num_same) == (2, 1)
    assert done.example == "videos/000003.mp4: label 'b' -> 'c'"
    for seen in (dataset, store.dataset("toy")):
        lines = seen.videos.select(["label", "splits", "group"]).to_pylist()
        assert (lines[3]["label"], dict(lines[3]["splits"]), lines[3]["group"]) == ("c", {"1": "train"}, "g")
        assert (lines[4]["label"], dict(lines[4]["splits"])) == ("a", {"1": "test", "2": "train"})
        assert seen.select("label = 'c'").rows.tolist() == [3]
        assert seen.rows_labelled_by_hand() == [3, 4]
    assert store.sql("SELECT label FROM toy.videos WHERE row = 3")["label"].to_pylist() == ["c"]
    assert pinned.videos["label"][3].as_py() == "b"
    assert pinned.snapshot() == old_snapshot != store.dataset("toy").snapshot()
    assert array_bytes(store) == before
    np.testing.assert_array_equal(store.dataset("toy").select().features(CROPS, FEATURE_SET).values, features)
    assert verify_store(store).is_clean


def test_the_last_change_of_a_row_counts_and_saying_it_again_writes_nothing(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    dataset.change_labels({1: {"label": "x"}, 2: {"group": "h"}})
    dataset.change_labels({1: {"label": "y"}})
    snapshot = dataset.snapshot()
    assert dataset.change_labels({1: {"label": "y"}}).num_changed == 0
    assert dataset.snapshot() == snapshot == store.dataset("toy").snapshot()
    assert dataset.videos["label"].to_pylist()[:3] == ["a", "y", "a"]
    assert dataset.videos["group"][2].as_py() == "h"
    dataset.append_videos(video_table(2, first=10, labels=["n", "n"]))
    assert dataset.videos["label"].to_pylist()[1] == "y"
    assert dataset.videos["label"].to_pylist()[10:] == ["n", "n"]


def test_racing_changes_are_all_kept(store: FeatureStore) -> None:
    def change(row: int) -> None:
        FeatureStore.open(store.url, "a").dataset("toy").change_labels({row: {"label": f"new {row}"}})

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(change, range(10)))
    assert store.dataset("toy").videos["label"].to_pylist() == [f"new {row}" for row in range(10)]


def test_a_damaged_file_is_served_by_its_copy_and_a_foreign_one_refused(store: FeatureStore, tmp_path: Path) -> None:
    store.dataset("toy").change_labels({1: {"label": "x"}})
    file, copy = (Path(store.url) / "toy/catalog" / name for name in ("labels-0.parquet", "_copies/labels-0.parquet"))
    good = file.read_bytes()
    assert copy.read_bytes() == good
    file.write_bytes(good[:100] + bytes([good[100] ^ 1]) + good[101:])
    assert store.dataset("toy").videos["label"][1].as_py() == "x"
    file.unlink()
    assert store.dataset("toy").videos["label"][1].as_py() == "x"
    other = make_store(tmp_path / "other", num_videos=10, groups=["g"] * 10)
    moved = video_table(10, first=5)
    foreign = FeatureStore.create(tmp_path / "foreign").create_dataset("toy")
    foreign.append_videos(moved)
    foreign.change_labels({1: {"label": "another's"}})
    theirs = (tmp_path / "foreign/toy/catalog/labels-0.parquet").read_bytes()
    for name in ("labels-0.parquet", "_copies/labels-0.parquet"):
        (tmp_path / "other/toy/catalog" / name).write_bytes(theirs)
    with pytest.raises(CorruptDataError, match="another video's in row 1"):
        _ = other.dataset("toy").videos


def test_what_is_no_change_is_refused(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    with pytest.raises(InvalidInputError, match="found lable"):
        dataset.change_labels({1: {"lable": "x"}})
    with pytest.raises(ShapeMismatchError, match=r"0\.\.9"):
        dataset.change_labels({10: {"label": "x"}})
    with pytest.raises(ConflictError, match="opened for writing"):
        FeatureStore.open(store.url).dataset("toy").change_labels({1: {"label": "x"}})


def test_a_pickled_handle_keeps_its_labels(store: FeatureStore) -> None:
    sent = pickle.dumps(store.dataset("toy"))
    store.dataset("toy").change_labels({1: {"label": "x"}})
    assert pickle.loads(sent).videos["label"][1].as_py() == "b"
