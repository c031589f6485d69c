"""Previews in the store: of the right video or none, one file a shard, whatever happens to it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import ConflictError, CorruptDataError, FormatError
from pipeline.recipe import RandomPolicy
from pipeline.store.previews import MAX_JPEG_BYTES, Preview
from pipeline.verify.backup import backup_store
from pipeline.verify.verify_store import verify_store
from tests.support.stores import CROPS, FEATURE_SET, fill, video_table


def strip(row: int, salt: str = "") -> Preview:
    return Preview((0.0, 0.5), f"strip {row}{salt}".encode())


def make(folder: Path, first: int = 0) -> FeatureStore:
    store = FeatureStore.create(folder)
    store.create_dataset("toy", shard_rows=4).append_videos(video_table(10, first=first))
    store.dataset("toy").save_previews({row: strip(row) for row in range(10)})
    return store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make(tmp_path / "s")


def files(store: FeatureStore) -> list[str]:
    return [key.rpartition("/")[2] for key, _ in store.backend.list("toy/previews") if "_lock" not in key]


def test_the_newest_strip_counts_and_a_shard_has_one_file(store):
    old, ds = store.dataset("toy"), store.dataset("toy")
    assert old.preview(9) == strip(9)
    assert ds.save_previews({9: strip(9), 8: strip(8)}) == 0  # the same: nothing is written
    assert files(store)[-1] == "2-0.parquet"
    assert ds.save_previews({9: strip(9, "of a file that was replaced")}) == 1
    assert store.dataset("toy").preview(9) == strip(9, "of a file that was replaced")
    assert ds.save_previews({9: strip(9)}) == 1
    ds.append_videos(video_table(3, first=10))
    assert ds.save_previews({10: strip(10), 12: strip(12)}) == 2
    assert files(store) == ["0-0.parquet", "1-0.parquet", "2-3.parquet", "3-0.parquet"]
    assert [store.dataset("toy").preview(r) for r in (9, 10, 11, 12)] == [strip(9), strip(10), None, strip(12)]
    assert old.preview(8) == strip(8)  # though the file it had seen is gone
    assert ds.save_previews({11: Preview((0.0,), bytes(MAX_JPEG_BYTES + 1))}) == 0
    assert verify_store(store).problems == ()
    with pytest.raises(ConflictError):
        FeatureStore.open(store.url, mode="r").dataset("toy").save_previews({11: strip(11)})


def test_two_writers_of_one_shard_lose_nothing(store):
    store.dataset("toy").append_videos(video_table(2, first=10))
    one, two = store.dataset("toy"), store.dataset("toy")
    assert one._previews.generations == two._previews.generations
    assert one.save_previews({10: strip(10)}) == 1
    assert two.save_previews({11: strip(11)}) == 1
    assert one.save_previews({11: strip(11)}) == 0
    assert [store.dataset("toy").preview(r) for r in (8, 10, 11)] == [strip(8), strip(10), strip(11)]


def test_pictures_of_other_videos_are_never_shown(store, tmp_path):
    """A file of another store, of another shard, a damaged one: named, set aside by repair, made again by a run."""
    other = make(tmp_path / "other", first=100)
    folder = Path(store.url) / "toy" / "previews"
    good = (folder / "0-0.parquet").read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    forged = {
        "other videos": (Path(other.url) / "toy/previews/0-0.parquet").read_bytes(),
        "damaged previews": (folder / "1-0.parquet").read_bytes(),
        "damaged previews ": bytes(flipped),
        "damaged previews  ": b"",
    }
    for kind, data in forged.items():
        (folder / "0-0.parquet").write_bytes(data)
        with pytest.raises(FormatError):
            store.dataset("toy").preview(0)
        assert store.dataset("toy").preview(5) == strip(5)
        assert [p.kind for p in verify_store(store).problems] == [kind.strip()]
        assert verify_store(store, repair=True).is_clean
        assert store.dataset("toy").preview(0) is None
        assert verify_store(store).problems == ()
        assert store.dataset("toy").save_previews({row: strip(row) for row in range(4)}) == 4
        assert store.dataset("toy").preview(0) == strip(0)


def test_what_a_killed_writer_left_behind_a_newer_file_is_named(store):
    folder = Path(store.url) / "toy" / "previews"
    old = (folder / "2-0.parquet").read_bytes()
    ds = store.dataset("toy")
    ds.append_videos(video_table(1, first=10))
    ds.save_previews({10: strip(10)})
    (folder / "2-0.parquet").write_bytes(old)
    assert store.dataset("toy").preview(10) == strip(10)
    assert [p.kind for p in verify_store(store).problems] == ["orphan"]
    verify_store(store, repair=True)
    assert files(store)[-1] == "2-1.parquet"


def test_a_snapshot_says_which_previews_were_there_and_a_backup_has_them(store, tmp_path):
    store.dataset("toy").define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=2))
    fill(store)
    ds = store.dataset("toy")
    before, of_features = ds.snapshot(), ds.snapshot(CROPS, FEATURE_SET)
    assert backup_store(store.url, tmp_path / "copy").check.is_clean
    copy = FeatureStore.open(tmp_path / "copy").dataset("toy")
    assert (copy.snapshot(), copy.preview(3)) == (before, strip(3))
    shutil.rmtree(Path(store.url) / "toy" / "previews")
    gone = store.dataset("toy")
    assert gone.snapshot() != before
    assert gone.snapshot(CROPS, FEATURE_SET) == of_features  # nothing is made of them: no product becomes stale
    assert gone.preview(3) is None
    assert verify_store(store).problems == ()  # whoever wants the room back deletes the folder


def test_a_damaged_file_is_replaced_whole_when_a_row_of_it_comes_again(store):
    path = Path(store.url) / "toy" / "previews" / "0-0.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptDataError):
        store.dataset("toy").preview(1)
    assert store.dataset("toy").save_previews({1: strip(1, "again")}) == 1
    assert store.dataset("toy").preview(1) == strip(1, "again")
    assert verify_store(store).problems == ()
