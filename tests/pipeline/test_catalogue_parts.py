"""A large catalogue is read in parts; what they say together is what the whole says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError
from pipeline.storage.schema import CATALOGUE_SCHEMA, catalogue_key
from pipeline.store.catalogue import Catalogue
from pipeline.store.dataset import Dataset
from pipeline.store.rows import SideState

SIZES = (5, 1, 9, 20)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset of four commits with other labels for some rows and some removed, in commits of both kinds."""
    ds = FeatureStore.create(tmp_path_factory.mktemp("parts")).create_dataset("d", shard_rows=4)
    for number, size in enumerate(SIZES):
        ids = [f"{number}/{i}.mp4" for i in range(size)]
        ds.append_videos(pa.table({"video_id": ids, "label": ["before"] * size, "duration_s": np.arange(size) + 0.5}))
    ds.change_labels({3: {"label": "after"}, 6: {"splits": {"1": "test"}}, 17: {"label": "gone"}})
    ds.change_labels({3: {"label": "at last", "group": "g"}})
    ds.remove_videos([5, 17, 34])
    return ds.refresh()


@given(rows=st.lists(st.integers(0, sum(SIZES) - 1), max_size=40))
@settings(max_examples=40, deadline=None)
def test_the_lines_of_some_rows_are_those_of_the_whole(changed: Dataset, rows: list[int]) -> None:
    catalogue = Catalogue(changed.backend, "d")
    lines = SideState(changed.backend, "d").lines_of(catalogue, np.array(rows, np.int64), max_kept=0)
    assert "videos" not in catalogue.__dict__  # the whole was not read
    assert lines.to_pylist() == changed.by_row.take(pa.array(rows, pa.int64())).to_pylist()


@pytest.mark.parametrize("columns", [None, ["label"], ["splits", "row", "duration_s"], ["video_id", "group"]])
def test_the_parts_together_are_the_whole_without_removed_videos(changed: Dataset, columns: list[str] | None) -> None:
    parts = list(SideState(changed.backend, "d").parts(Catalogue(changed.backend, "d"), columns, max_kept=0))
    assert [len(part) for part in parts] == [5, 0, 9, 18]
    wanted = changed.videos.select(CATALOGUE_SCHEMA.names if columns is None else columns)
    assert pa.concat_tables(parts).to_pylist() == wanted.to_pylist()
    assert pa.concat_tables(list(changed.refresh().parts(columns))).to_pylist() == wanted.to_pylist()


def video_ids(ds: Dataset) -> list[str]:
    catalogue = Catalogue(ds.backend, "d")
    return pa.concat_tables(SideState(ds.backend, "d").parts(catalogue, ["video_id"], max_kept=0))[
        "video_id"
    ].to_pylist()


def test_parts_take_a_copy_for_a_commit_that_is_gone_and_refuse_another_in_its_place(tmp_path: Path) -> None:
    ds = FeatureStore.create(tmp_path / "store").create_dataset("d", shard_rows=4)
    for number in range(3):
        ds.append_videos(pa.table({"video_id": [f"{number}.mp4"]}))
    first, second = (tmp_path / "store" / catalogue_key("d", number) for number in (0, 1))
    second.unlink()
    assert video_ids(ds) == [
        "0.mp4",
        "1.mp4",
        "2.mp4",
    ]
    other = FeatureStore.create(tmp_path / "other").create_dataset("d", shard_rows=4)
    other.append_videos(pa.table({"video_id": ["x.mp4"]}))
    other.append_videos(pa.table({"video_id": ["y.mp4"]}))
    second.write_bytes((tmp_path / "other" / catalogue_key("d", 1)).read_bytes())  # whole, of this name, another chain
    assert video_ids(ds) == [
        "0.mp4",
        "1.mp4",
        "2.mp4",
    ]
    first.with_name("_copies").joinpath(second.name).unlink()
    with pytest.raises(CorruptDataError, match="commit 1 of the catalogue"):
        video_ids(ds)
