"""A row is its video: features never come back under other ids, whatever was lost, swapped or put back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, WrongVideoError
from tests.support.toy_stores import CROPS, FEATURES, check_features, extract, make_store, policy, videos


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """6 videos in two commits, shards of 4, all extracted."""
    store = make_store(tmp_path / "s", num_videos=3)
    store.dataset("toy").append_videos(videos(3, 6))
    extract(store.dataset("toy"))
    return tmp_path / "s"


def catalog(folder: Path) -> Path:
    return folder / "toy" / "catalog"


READS: dict[str, Callable[[FeatureStore], object]] = {
    "rows": lambda store: store.dataset("toy").num_rows,
    "videos": lambda store: store.dataset("toy").videos,
    "status": lambda store: store.dataset("toy").status(CROPS, FEATURES),
    "features": lambda store: store.dataset("toy").select().features(CROPS, FEATURES),
    "info": lambda store: store.dataset("toy").feature_info(CROPS, FEATURES),
    "sql": lambda store: store.sql("SELECT count(*) FROM toy.videos"),
    "snapshot": lambda store: store.dataset("toy").snapshot(),
}


def test_a_lost_commit_is_read_from_its_copy_and_mended_by_the_next_writer(folder: Path) -> None:
    for lost in ("videos-1.parquet", "_copies/videos-1.parquet"):
        data = (catalog(folder) / lost).read_bytes()
        (catalog(folder) / lost).unlink()
        check_features(FeatureStore.open(folder).dataset("toy"))
        store = FeatureStore.open(folder, "a")
        assert store.dataset("toy").append_videos(videos(0, 6)).num_new == 0
        assert (catalog(folder) / lost).read_bytes() == data


@pytest.mark.parametrize("read", READS)
def test_a_commit_that_is_lost_for_good_is_said_and_never_given_away(folder: Path, read: str) -> None:
    (catalog(folder) / "videos-1.parquet").unlink()
    (catalog(folder) / "_copies" / "videos-1.parquet").unlink()
    with pytest.raises(WrongVideoError, match="at least 6 videos"):
        READS[read](FeatureStore.open(folder))
    with pytest.raises(WrongVideoError, match="new videos would get the rows"):
        FeatureStore.open(folder, "a").dataset("toy").append_videos(videos(10, 13))
    assert not (catalog(folder) / "videos-1.parquet").exists()


def test_geometry_alone_keeps_its_rows_too(folder: Path) -> None:
    for entry in (folder / "toy/crops" / CROPS / "ledger" / FEATURES).glob("*.parquet"):
        entry.unlink()
    for path in (catalog(folder) / "videos-1.parquet", catalog(folder) / "_copies/videos-1.parquet"):
        path.unlink()
    with pytest.raises(WrongVideoError, match="knows row 5"):
        FeatureStore.open(folder, "a").dataset("toy").append_videos(videos(10, 13))


@pytest.mark.parametrize("wrong", ["swapped", "first again", "of another store"])
def test_catalogue_files_under_wrong_names(folder: Path, tmp_path: Path, wrong: str) -> None:
    first, second = catalog(folder) / "videos-0.parquet", catalog(folder) / "videos-1.parquet"
    if wrong == "swapped":
        one, two = first.read_bytes(), second.read_bytes()
        first.write_bytes(two)
        second.write_bytes(one)
    elif wrong == "first again":
        second.write_bytes(first.read_bytes())
    else:
        other = make_store(tmp_path / "other", num_videos=3, name="toy")
        other.dataset("toy").append_videos(videos(20, 23))
        second.write_bytes((tmp_path / "other/toy/catalog/videos-1.parquet").read_bytes())
    check_features(FeatureStore.open(folder).dataset("toy"))
    assert FeatureStore.open(folder).dataset("toy").videos["video_id"].to_pylist() == [
        f"clips/{i:04d}.mp4" for i in range(6)
    ]


def test_a_catalogue_of_other_videos_gets_none_of_the_features(folder: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", num_videos=3)
    other.dataset("toy").append_videos(videos(20, 23))
    for name in ("videos-0.parquet", "videos-1.parquet"):
        for place in ("", "_copies/"):
            shutil.copy(catalog(tmp_path / "other") / name, catalog(folder) / f"{place}{name}")
    ds = FeatureStore.open(folder, "a").dataset("toy")
    for use in (
        lambda: ds.select().features(CROPS, FEATURES),
        lambda: ds.status(CROPS, FEATURES),
        lambda: extract(ds),
    ):
        with pytest.raises(WrongVideoError):
            use()


def test_an_entry_of_another_ledger_is_none_of_this_one(folder: Path) -> None:
    store = FeatureStore.open(folder, "a")
    store.dataset("toy").define_crop_set("other", policy())
    extract(store.dataset("toy"), "other")
    ledgers = folder / "toy/crops"
    shutil.copy(ledgers / f"other/ledger/{FEATURES}/1-0.parquet", ledgers / f"{CROPS}/ledger/{FEATURES}/1-0.parquet")
    with pytest.raises(CorruptDataError, match="an entry of this ledger"):
        FeatureStore.open(folder).dataset("toy").status(CROPS, FEATURES)


def test_a_reader_beside_an_append_is_answered(folder: Path) -> None:
    """What was pinned before an append is read on, though the ledger knows later rows by now."""
    before = FeatureStore.open(folder).dataset("toy")
    store = FeatureStore.open(folder, "a")
    store.dataset("toy").append_videos(videos(6, 11))
    extract(store.dataset("toy"))
    assert before.num_rows == 6
    fresh = FeatureStore.open(folder).dataset("toy")
    fresh._pinned = before._pinned  # the catalogue was looked at before the append, the ledger after it
    fresh._rows._catalogue = before._pinned
    assert fresh.num_rows == 6
    assert fresh.select().features(CROPS, FEATURES).valid.any(axis=1).all()
