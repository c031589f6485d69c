"""Lookups and appends by id: the same answers with an index, without one, and with one that is damaged or old."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import FeatureStore
from pipeline.errors import NotFoundError, VideoChangedError
from pipeline.store import id_index
from pipeline.store.compact import compact_store, index_ids
from pipeline.store.id_index import Run, drop_index, open_index
from tests.support.stores import video_table

SIZES = (7, 20, 21, 50, 51, 90)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """Six commits of different sizes."""
    store = FeatureStore.create(tmp_path / "s")
    ds = store.create_dataset("toy", shard_rows=4)
    for size in SIZES:
        ds.append_videos(video_table(size))
    return store


def ids() -> list[str]:
    return video_table(SIZES[-1])["video_id"].to_pylist()


def check(store: FeatureStore) -> None:
    for some in (ids()[3:4], ids()[::-1], ids()[40:60], []):
        ds = store.dataset("toy")
        assert [ds.row_of(video_id) for video_id in some] == [ids().index(video_id) for video_id in some]
        assert ds.select(video_ids=some).rows.tolist() == [ids().index(video_id) for video_id in some]
    with pytest.raises(NotFoundError):
        store.dataset("toy").row_of("nobody.mp4")
    with pytest.raises(NotFoundError):
        store.dataset("toy").select(video_ids=[ids()[0], "nobody.mp4"])


def test_ids_are_found_with_and_without_an_index(store: FeatureStore) -> None:
    check(store)
    assert index_ids(store.backend, "toy", rows_per_group=8, min_ids=91) == 0
    assert index_ids(store.backend, "toy", rows_per_group=8, min_ids=1) == 90
    check(store)
    (file,) = open_index(store.backend, "toy")
    assert (file.start, file.stop) == (0, 90)
    store.dataset("toy").append_videos(video_table(100))
    ds = store.dataset("toy")
    assert [ds.row_of(v) for v in video_table(100)["video_id"].to_pylist()] == list(range(100))
    assert drop_index(store.backend, "toy") == 1
    check(store)


def test_an_index_grows_by_merging_and_never_leaves_a_gap(store: FeatureStore) -> None:
    assert index_ids(store.backend, "toy", rows_per_group=8, min_ids=1, max_rows=64) == 90
    for size in range(92, 160, 3):
        store.dataset("toy").append_videos(video_table(size))
        index_ids(store.backend, "toy", rows_per_group=8, min_ids=2, max_rows=64)
        files = open_index(store.backend, "toy")
        assert [f.start for f in files] == [0, *(f.stop for f in files[:-1])]
        assert files[-1].stop == store.dataset("toy").num_rows
        assert len(id_index.index_numbers(store.backend, "toy")) == len(files) <= 8
    check(store)


@pytest.mark.parametrize("damage", ["flip", "cut", "other rows"])
def test_a_damaged_or_wrong_index_is_no_answer(store: FeatureStore, damage: str) -> None:
    index_ids(store.backend, "toy", rows_per_group=8, min_ids=1)
    path = Path(store.url) / "toy/catalog/packs/ids-0.parquet"
    whole = path.read_bytes()
    if damage == "other rows":
        run = open_index(store.backend, "toy")[0].whole
        drop_index(store.backend, "toy")
        id_index.write_index(store.backend, "toy", Run(run.keys, run.rows[::-1]), 0, rows_per_group=8)
        check(store)
        return
    for place in range(5, len(whole), max(1, len(whole) // 15)):
        path.write_bytes(
            whole[:place] if damage == "cut" else whole[:place] + bytes([whole[place] ^ 8]) + whole[place + 1 :]
        )
        check(store)


def test_appends_know_what_is_there_with_and_without_an_index(store: FeatureStore) -> None:
    for indexed in (False, True):
        if indexed:
            index_ids(store.backend, "toy", rows_per_group=8, min_ids=1)
        ds = store.dataset("toy")
        start = ds.num_rows
        appended = ds.append_videos(video_table(start + 5))
        assert (appended.num_new, appended.num_known, appended.first_row) == (5, start, start)
        appended = ds.append_videos(video_table(start + 7))  # the same handle goes on
        assert (appended.num_new, appended.num_known) == (2, start + 5)
        changed = video_table(start + 9)
        place = changed.schema.get_field_index("sha256")
        hashes = ["f" * 64 if k == 10 else h for k, h in enumerate(changed["sha256"].to_pylist())]
        changed = changed.set_column(place, "sha256", pa.array(hashes))
        with pytest.raises(VideoChangedError):
            ds.append_videos(changed)
        assert store.dataset("toy").num_rows == start + 7


def test_a_handle_that_pinned_less_than_the_index_knows_sees_no_more(store: FeatureStore) -> None:
    pinned = store.dataset("toy")
    store.dataset("toy").append_videos(video_table(95))
    assert compact_store(store, min_ids=1).summary() == "95 video ids went into an index"
    with pytest.raises(NotFoundError):
        pinned.row_of(video_table(95)["video_id"].to_pylist()[92])
    assert pinned.row_of(ids()[89]) == 89


def test_equal_keys_of_different_ids_are_told_apart() -> None:
    run = Run.merged([Run.of(np.array([5, 3, 5], np.uint64), 0), Run.of(np.array([5], np.uint64), 3)])
    places, rows = run.find(np.array([4, 5, 3], np.uint64))
    assert sorted(zip(places.tolist(), rows.tolist(), strict=True)) == [(1, 0), (1, 2), (1, 3), (2, 1)]
