"""Selections in other tools and other processes: their order, data frames, pickles that reopen."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipeline import Dataset, FeatureBlock, FeatureStore, Selection
from pipeline.errors import InvalidInputError, NotFoundError
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, video_table

ORDER = [9, 2, 17, 2]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    splits = [{"1": "train", "odd name": "a"} if i % 2 else {"1": "test"} for i in range(20)]
    return make_store(
        tmp_path / "s", num_videos=20, num_crops=3, dim=5, labels=["x"] * 20, splits=splits, statuses={2: "missing"}
    )


def picked(dataset: Dataset) -> Selection:
    ids = dataset.videos["video_id"].to_pylist()
    return dataset.select(video_ids=[ids[row] for row in ORDER])


def test_video_ids_keep_their_order(store: FeatureStore, tmp_path: Path) -> None:
    dataset = store.dataset("toy")
    selection, everything = picked(dataset), dataset.select().features(CROPS, FEATURE_SET)
    block = selection.features(CROPS, FEATURE_SET)
    assert block.rows.tolist() == selection.videos["row"].to_pylist() == ORDER
    np.testing.assert_array_equal(block.values, everything.values[ORDER])
    batches = list(selection.batches(CROPS, FEATURE_SET, batch_size=3, shuffle=False))
    assert [b.rows.tolist() for b in batches] == [ORDER[:3], ORDER[3:]]
    np.testing.assert_array_equal(np.concatenate([b.values for b in batches]), everything.values[ORDER])
    shuffled = np.concatenate([b.rows for b in selection.batches(CROPS, FEATURE_SET, batch_size=3, seed=1)])
    assert sorted(shuffled.tolist()) == sorted(ORDER)
    out = FeatureBlock.empty(3, 3, 5, "float16")
    (one,) = selection.batches(CROPS, FEATURE_SET, batch_size=3, shuffle=False, drop_last=True, out=out)
    assert np.shares_memory(one.values, out.values)
    np.testing.assert_array_equal(one.geometry, everything.geometry[ORDER[:3]])
    lazy = selection.to_dask(CROPS, FEATURE_SET)
    assert lazy.rows.tolist() == ORDER
    np.testing.assert_array_equal(lazy.values.compute(scheduler="synchronous"), everything.values[ORDER])


def test_a_flat_table_with_features(store: FeatureStore) -> None:
    selection = picked(store.dataset("toy"))
    table = selection.to_arrow(CROPS, FEATURE_SET)
    assert table["split_1"].to_pylist() == ["train", "test", "train", "test"]
    assert table["split_odd name"].to_pylist() == ["a", None, "a", None]
    assert "splits" not in table.column_names
    assert table["status"].to_pylist() == ["ok", "missing", "ok", "missing"]
    assert table["values"].type == pa.list_(pa.list_(pa.float32(), 5), 3)
    block = selection.features(CROPS, FEATURE_SET)
    np.testing.assert_array_equal(np.array(table["values"].to_pylist(), np.float16), block.values)
    assert table["valid"].to_pylist() == block.valid.tolist()
    assert store.dataset("toy").select(rows=[]).to_arrow(CROPS, FEATURE_SET).num_rows == 0
    with pytest.raises(InvalidInputError, match="or neither"):
        selection.to_arrow(CROPS)
    with pytest.raises(NotFoundError):
        selection.to_arrow(CROPS, "nope")


def test_pandas_and_polars(store: FeatureStore) -> None:
    selection = picked(store.dataset("toy"))
    block = selection.features(CROPS, FEATURE_SET)
    frame = selection.to_pandas(CROPS, FEATURE_SET)
    assert isinstance(frame, pd.DataFrame)
    assert frame["row"].tolist() == ORDER
    np.testing.assert_array_equal(np.stack(frame["values"]), block.values)
    lake = selection.to_polars(CROPS, FEATURE_SET)
    assert isinstance(lake, pl.DataFrame)
    np.testing.assert_array_equal(lake["values"].to_numpy(), block.values.astype(np.float32))
    assert lake.filter(pl.col("split_1") == "train").height == 2
    assert "values" not in selection.to_pandas().columns


def test_a_pickled_handle_sees_what_was_pinned(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    selection = picked(dataset)
    sent = pickle.dumps((store, dataset, selection))
    assert len(sent) < 4_000  # an address and numbers, no tables
    dataset.refresh().append_videos(video_table(3, first=20))
    fill(store, dim=5)
    again_store, again, chosen = pickle.loads(sent)
    assert (again_store.url, again.num_rows, again.snapshot()) == (store.url, 20, dataset.snapshot())
    assert again.refresh().num_rows == 23
    np.testing.assert_array_equal(
        chosen.features(CROPS, FEATURE_SET).values, selection.features(CROPS, FEATURE_SET).values
    )


def _read(dataset: Dataset, row: int) -> np.ndarray:
    return np.array(dataset.select(rows=[row]).features(CROPS, FEATURE_SET).values[0])


def test_handles_work_in_spawned_workers(store: FeatureStore) -> None:
    dataset = store.dataset("toy")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(_read, dataset, 9).result()
    np.testing.assert_array_equal(found, _read(dataset, 9))


def in_other_tools() -> dict[str, str]:
    """Package -> the lines of docs/questions.md that hand features to it."""
    text = (Path(__file__).parents[2] / "docs" / "questions.md").read_text()
    return dict(re.findall(r"^```python needs=(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("package", ["datasets", "lance", "webdataset"])
def test_the_lines_for_other_tools_run(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    lines = in_other_tools()[package].replace("grid5x3", CROPS).replace("x3d_xs", FEATURE_SET)
    pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    selection = picked(store.dataset("toy"))
    values = np.asarray(selection.features(CROPS, FEATURE_SET).values, np.float32)
    names = {"sel": selection, "table": selection.to_arrow(CROPS, FEATURE_SET)}
    exec(compile(lines, "docs/questions.md", "exec"), names)
    if package == "datasets":
        found = [np.asarray(row) for row in names["hub"]["values"]]  # type: ignore[index]
    elif package == "lance":
        found = names["lance"].dataset("features.lance").to_table()["values"].to_pylist()  # type: ignore[attr-defined]
    else:
        rows = names["wds"].WebDataset("features-00000.tar", shardshuffle=False).decode()  # type: ignore[attr-defined]
        found = [row["npy"] for row in rows]
    np.testing.assert_array_equal(np.array(found), values)
