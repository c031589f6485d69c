"""The index of commits: fewer reads, the same answers, and no belief in one that is not this catalogue's."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.schema import CATALOGUE_SCHEMA
from pipeline.storage.sealed import seal, unseal
from pipeline.store.commit_index import commit_index_numbers, drop_commit_index, open_commit_index
from pipeline.store.dataset import Dataset
from pipeline.store.indexing import COMMITS_BETWEEN, index_commits


class Counted(LocalBackend):
    """A folder that remembers which catalogue files were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.keys: list[str] = []

    def read(self, key: str) -> bytes:
        """Note the key."""
        self.keys.append(key)
        return super().read(key)

    @property
    def num_commits_read(self) -> int:
        """Different commits that were read since the last look."""
        found = {key for key in self.keys if "/catalog/videos-" in key or "/_copies/videos-" in key}
        self.keys.clear()
        return len(found)


def append(ds: Dataset, count: int) -> None:
    for _ in range(count):
        first = ds.num_rows
        ds.append_videos(pa.table({"video_id": [f"{first + k}.mp4" for k in range(first % 3 + 1)]}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 40 commits without an index."""
    folder = tmp_path_factory.mktemp("commits") / "store"
    append(FeatureStore.create(folder).create_dataset("d", shard_rows=4), 40)
    drop_commit_index(LocalBackend(folder), "d")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "store"))


def answers(ds: Dataset) -> list[object]:
    last = ds.num_rows - 1
    return [ds.num_rows, ds.snapshot(), ds.videos.to_pylist(), ds.row_of(f"{last}.mp4"), ds.select(rows=[5, 30]).videos]


def test_an_index_changes_no_answer_and_spares_the_commits(folder: Path) -> None:
    before = FeatureStore.open(folder).dataset("d")
    wanted, pinned = answers(before), FeatureStore.open(folder).dataset("d")
    assert index_commits(LocalBackend(folder), "d") == 40
    assert index_commits(LocalBackend(folder), "d") == 0
    assert answers(FeatureStore.open(folder).dataset("d")) == wanted == answers(pinned)
    backend = Counted(folder)
    ds = FeatureStore.open(backend).dataset("d")
    assert (ds.num_rows, ds.snapshot()) == (before.num_rows, before.snapshot())
    assert backend.num_commits_read == 1  # the last one vouches for the index
    assert [ds._pinned.commits.holding(row) for row in range(ds.num_rows)] == [
        before._pinned.commits.holding(row) for row in range(ds.num_rows)
    ]
    assert backend.num_commits_read == 0


def test_an_index_serves_beside_later_commits_and_for_handles_that_see_fewer(folder: Path) -> None:
    index_commits(LocalBackend(folder), "d")
    early = FeatureStore.open(folder).dataset("d")
    append(FeatureStore.open(folder, mode="a").dataset("d"), 5)
    indexed = FeatureStore.open(folder).dataset("d")
    drop_commit_index(LocalBackend(folder), "d")
    wanted = answers(indexed)
    assert wanted == answers(FeatureStore.open(folder).dataset("d"))
    assert indexed.num_rows > early.num_rows == len(early.videos)
    append(FeatureStore.open(folder, mode="a").dataset("d"), 20)
    index_commits(LocalBackend(folder), "d", min_commits=1)
    again = pickle.loads(pickle.dumps(indexed))
    assert answers(again) == wanted


def test_one_row_reads_one_commit_beside_the_last_and_another_commit_in_its_place_is_seen(folder: Path) -> None:
    wanted = FeatureStore.open(folder).dataset("d").by_row["video_id"].to_pylist()
    index_commits(LocalBackend(folder), "d")
    backend = Counted(folder)
    ds = FeatureStore.open(backend).dataset("d")
    assert ds.num_rows == len(wanted)
    assert backend.num_commits_read == 1
    assert ds._pinned.part(30, 31)["video_id"].to_pylist() == wanted[30:31]
    assert backend.num_commits_read == 1
    assert ds._pinned.commits.lines(np.array([50]))["video_id"].to_pylist() == wanted[50:51]
    assert backend.num_commits_read == 1
    number = ds._pinned.commits.holding(20)
    files = [folder / f"d/catalog/videos-{number}.parquet", folder / f"d/catalog/_copies/videos-{number}.parquet"]
    table, metadata = unseal(files[0].read_bytes(), CATALOGUE_SCHEMA, what="a commit")
    ids = pa.array([f"other {k}" for k in range(len(table))])
    other = seal(table.set_column(1, CATALOGUE_SCHEMA.field("video_id"), ids), metadata)
    files[0].write_bytes(other)  # whole, numbered and sealed as the right one is
    ds = FeatureStore.open(folder).dataset("d")
    assert ds._pinned.part(20, 21)["video_id"].to_pylist() == wanted[20:21]  # from the copy
    assert ds._pinned.commits.lines(np.array([20]))["video_id"].to_pylist() == wanted[20:21]
    files[1].write_bytes(other)
    for look in (lambda d: d._pinned.part(20, 21), lambda d: d._pinned.commits.lines(np.array([20, 21]))):
        with pytest.raises(CorruptDataError, match="commit"):
            look(FeatureStore.open(folder).dataset("d"))


@pytest.mark.parametrize("harm", ["flip", "another catalogue's", "older catalogue"])
def test_an_index_that_is_not_this_catalogues_is_not_believed(folder: Path, tmp_path: Path, harm: str) -> None:
    wanted = answers(FeatureStore.open(folder).dataset("d"))
    index_commits(LocalBackend(folder), "d")
    path = folder / "d/catalog/packs/commits-0.parquet"
    if harm == "flip":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "another catalogue's":
        append(FeatureStore.create(tmp_path / "other").create_dataset("d", shard_rows=4), 32)
        path.write_bytes(next((tmp_path / "other/d/catalog/packs").glob("commits-*")).read_bytes())
    else:  # the folder was put back to an earlier day, another video came, and the index stayed
        for number in range(30, 40):
            (folder / f"d/catalog/videos-{number}.parquet").unlink()
            (folder / f"d/catalog/_copies/videos-{number}.parquet").unlink()
        ds = FeatureStore.open(folder, mode="a").dataset("d")
        ds.append_videos(pa.table({"video_id": ["other"]}))
        wanted = answers_of_other(ds, path)
        assert [v["video_id"] for v in wanted[2]][-1] == "other"  # type: ignore[index, call-overload]
        found = FeatureStore.open(folder).dataset("d")
        assert [found.num_rows, found.snapshot(), found.videos.to_pylist()] == wanted
        return
    assert answers(FeatureStore.open(folder).dataset("d")) == wanted


def answers_of_other(ds: Dataset, index: Path) -> list[object]:
    """Return what a handle says without the index, which is put back."""
    data = index.read_bytes()
    index.unlink()
    seen = ds.refresh()
    said = [seen.num_rows, seen.snapshot(), seen.videos.to_pylist()]
    index.write_bytes(data)
    return said


def test_appends_make_the_index_by_themselves_and_only_the_newest_stays(folder: Path) -> None:
    ds = FeatureStore.open(folder, mode="a").dataset("d")
    append(ds, COMMITS_BETWEEN * 3 - 41)
    assert commit_index_numbers(LocalBackend(folder), "d") == []
    append(ds, 1)
    assert len(open_commit_index(LocalBackend(folder), "d")) == COMMITS_BETWEEN * 3
    append(ds, 2)
    index_commits(LocalBackend(folder), "d", min_commits=1)
    assert commit_index_numbers(LocalBackend(folder), "d") == [1]
    assert len(open_commit_index(LocalBackend(folder), "d")) == COMMITS_BETWEEN * 3 + 2
