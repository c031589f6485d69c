"""Which rows a model is trained on, and how they are read."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from aggregate.data.rows import choose_rows, group_ids, make_source, stream_source
from aggregate.stage import plan_train
from pipeline.errors import NoDataError
from pipeline.settings import Settings
from tests.support.stores import make_store
from tests.support.toy_training import HERE, recipe, run_all, toy


def test_inductive_by_default_transductive_by_choice(tmp_path):
    store = toy(tmp_path)
    ds = store.dataset("toy")
    assert choose_rows(ds, recipe().train).rows.tolist() == list(range(16))
    assert len(choose_rows(ds, recipe(rows="all").train).rows) == 24
    report, _ = run_all(store, recipe(rows="all"))
    assert report.details["rows"] == "all"
    assert "transductive" in plan_train(recipe(rows="all"), store, HERE).table()[0]["rows"]


def test_splits_that_do_not_exist_are_named(tmp_path):
    store = toy(tmp_path)
    with pytest.raises(NoDataError, match=r"split \"o'brien\" marks as train.*splits of the catalogue: 1\).*rows: all"):
        plan_train(recipe(split="o'brien"), store, HERE)
    everything = dict.fromkeys(range(16), "unreadable")
    store = make_store(tmp_path / "b", num_videos=24, dim=8, splits=["train"] * 16 + ["test"] * 8, statuses=everything)
    with pytest.raises(NoDataError, match="of the 16 chosen rows, found none"):
        plan_train(recipe(), store, HERE)


def test_groups_become_numbers_and_a_video_without_one_is_its_own(tmp_path):
    store = toy(tmp_path, groups=["a"] * 8 + ["b"] * 16)
    videos = store.dataset("toy").videos
    assert group_ids(videos).tolist() == [0] * 8 + [1] * 16
    column = videos["group"].to_pylist()
    column[3] = column[5] = None
    found = group_ids(videos.set_column(videos.schema.get_field_index("group"), "group", pa.array(column)))
    assert len({found[3], found[5], found[0], found[9]}) == 4


def test_streaming_from_the_store_sees_every_row_once_and_resumes_the_same(tmp_path):
    store, spec = toy(tmp_path), recipe(batch_size=4).train
    ds = store.dataset("toy")
    rows = choose_rows(ds, spec).rows
    source = stream_source(ds.select(rows=rows), spec, 8, torch.device("cpu"))
    seen = [b.video_ids.tolist() for b in source.batches(3, 4)]
    assert sorted(r for batch in seen for r in batch) == rows.tolist()
    assert [b.video_ids.tolist() for b in source.batches(3, 4, skip=2)] == seen[2:]
    assert [b.video_ids.tolist() for b in source.batches(4, 4)] != seen
    batch = next(iter(source.batches(3, 4)))
    values = ds.select(rows=sorted(batch.video_ids.tolist())).features("train16", "fake").values
    order = batch.video_ids.argsort()
    np.testing.assert_array_equal(batch.pool_features[order].numpy(), values)


def test_a_selection_too_large_for_memory_is_streamed(tmp_path):
    store, chosen = toy(tmp_path), recipe()
    ds = store.dataset("toy")
    source = make_source(ds, np.arange(16), chosen.train, torch.device("cpu"), resident_bytes=1000)
    assert type(source).__name__ == "StreamSource"
    assert run_all(store, chosen, settings=Settings(device="cpu", resident_bytes=1000))[0].did["models_trained"] == 1
