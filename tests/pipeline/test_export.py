"""Tables and features as files for other tools, and as Dask arrays."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NoDataError, NotFoundError
from pipeline.exchange.export import write_features, write_npz, write_table
from pipeline.query.results import without_formulas
from tests.support.toy_stores import CROPS, FEATURES, extract, make_store, videos


def test_tables(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    table = store.sql("SELECT row, label, labels, splits, probe_error FROM toy.videos ORDER BY row")
    assert pq.read_table(write_table(table, tmp_path / "t.parquet")).equals(table)
    with write_table(table, tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == table["label"].to_pylist()
    assert json.loads(rows[1]["splits"]) == {"1": "test"}
    assert json.loads(rows[2]["labels"]) == ["o'b; DROP TABLE x; --"]
    assert rows[0]["probe_error"] == ""
    lines = write_table(table, tmp_path / "t.jsonl").read_text().splitlines()
    assert json.loads(lines[1])["label"] == "walk"
    with pytest.raises(InvalidInputError, match="parquet"):
        write_table(table, tmp_path / "t.xlsx")
    with pytest.raises(InvalidInputError, match="folder"):
        write_table(table, tmp_path / "none" / "t.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store", "t.csv", "t.jsonl", "t.parquet"]


def test_npz(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store").dataset("toy")
    selection = dataset.select("row <> 5")
    path = write_npz(selection, tmp_path / "x.npz", CROPS, FEATURES)
    block = selection.features(CROPS, FEATURES)
    with np.load(path, allow_pickle=False) as found:
        for name in ("values", "valid", "geometry"):
            np.testing.assert_array_equal(found[name], getattr(block, name))
            assert found[name].dtype == getattr(block, name).dtype
        assert found["row"].tolist() == block.rows.tolist()
        assert found["video_id"].tolist() == selection.videos["video_id"].to_pylist()
        assert json.loads(str(found["provenance"]))["snapshot"] == dataset.snapshot(CROPS, FEATURES)


def test_an_old_file_stays_when_writing_fails(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store").dataset("toy")
    path = write_features(dataset.select(), tmp_path / "x.npz", CROPS, FEATURES)
    before = path.read_bytes()
    with pytest.raises(NotFoundError):
        write_features(dataset.select(), path, CROPS, "nope")
    assert path.read_bytes() == before
    with pytest.raises(InvalidInputError, match="npz"):
        write_features(dataset.select(), tmp_path / "x.mat", CROPS, FEATURES)
    assert write_features(dataset.select("false"), tmp_path / "none.npz", CROPS, FEATURES).is_file()


def test_dask_blocks_are_shards(tmp_path: Path) -> None:
    dataset = make_store(tmp_path / "store", num_videos=11).dataset("toy")
    selection = dataset.select("row <> 5")
    lazy = selection.to_dask(CROPS, FEATURES)
    assert lazy.values.chunks[0] == (4, 3, 3)
    block = selection.features(CROPS, FEATURES)
    for name in ("values", "valid", "geometry"):
        array = getattr(lazy, name)
        assert (array.shape, array.dtype) == (getattr(block, name).shape, getattr(block, name).dtype)
        np.testing.assert_array_equal(array.compute(scheduler="synchronous"), getattr(block, name))
    mean = lazy.values.astype("f4").mean(axis=1)[2:9].compute(scheduler="threads")
    np.testing.assert_allclose(mean, block.values.astype("f4").mean(axis=1)[2:9], rtol=1e-6)
    with pytest.raises(NoDataError):
        dataset.select("false").to_dask(CROPS, FEATURES)
    with pytest.raises(NotFoundError):
        dataset.select().to_dask(CROPS, "nope")


def test_dask_sees_what_the_handle_saw(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_videos=6)
    old = store.dataset("toy")
    lazy = old.select().to_dask(CROPS, FEATURES)
    old.refresh().append_videos(videos(6, 9))
    extract(store.dataset("toy"))
    new = store.dataset("toy").select().to_dask(CROPS, FEATURES)
    assert lazy.values.shape[0] == 6
    assert new.values.shape[0] == 9
    both = new.values[:6].compute(scheduler="synchronous"), lazy.values.compute(scheduler="synchronous")
    np.testing.assert_array_equal(*both)
    assert new.valid.compute(scheduler="synchronous")[6:].any(axis=1).all()


def test_importing_the_kernel_does_not_import_the_optional(tmp_path: Path) -> None:
    script = (
        "import sys, pipeline; from pipeline import FeatureStore; "
        "print(sorted({'dask', 'h5py', 'duckdb', 'zarr', 'obstore', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sql_tables_of_a_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", num_videos=10)
    store.dataset("toy").append_videos(videos(10, 12))
    counted = store.sql("SELECT status, count(*) AS n FROM toy.ledger GROUP BY ALL ORDER BY ALL").to_pylist()
    assert counted == [{"status": "ok", "n": 8}, {"status": "partial", "n": 2}, {"status": "pending", "n": 2}]
    geometry = store.sql("SELECT * FROM toy.geometry ORDER BY row, crop")
    assert geometry.num_rows == 10 * 4
    assert geometry.slice(5, 1).to_pylist()[0] == {
        "crops": CROPS, "row": 1, "video_id": "clips/0001.mp4", "crop": 1, "start_s": 1.0, "end_s": 2.0, "top_px": 0.0,
        "left_px": 0.0, "bottom_px": 101.0, "right_px": 101.0, "flip": 0.0, "stride": 4.0, "start_frame": 0.0,
    }  # fmt: skip
    joined = store.sql(
        "SELECT v.label, avg(g.end_s - g.start_s) AS s FROM toy.videos v JOIN toy.geometry g USING (row) GROUP BY 1"
    )
    assert joined.num_rows == 3
    empty = FeatureStore.create(tmp_path / "empty")
    assert empty.sql("SELECT 1 AS one").to_pylist() == [{"one": 1}]
    empty.create_dataset("d")
    for name in ("videos", "ledger", "geometry"):
        assert empty.sql(f"SELECT * FROM d.{name}").num_rows == 0


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")'])
def test_a_cell_that_begins_a_formula_can_be_written_as_text(tmp_path, text):
    table = pa.table({text: [text, "plain", None], "n": [1, -2, 3]})
    safe = without_formulas(table)
    assert safe.column_names == [f"'{text}", "n"]
    assert safe[0].to_pylist() == [f"'{text}", "plain", None]
    assert safe[1].to_pylist() == [1, -2, 3]
    assert write_table(safe, tmp_path / "t.csv").read_text().startswith("\"'")
