"""What is added up from the entries at a glance is what the table of every row says."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy
from pipeline.sets.ledger_entry import UNDONE
from pipeline.store.compact import compact_store
from pipeline.store.dataset import Dataset
from pipeline.store.row_statuses import status_pieces

V, D, SHARD_ROWS = 1, 2, 4
STATUSES = ["ok"] * 4 + ["ok", "missing", "ok", "unreadable"] + ["interrupted", "ok", "ok", "ok"] + ["ok", "ok"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Return 19 videos in five shards: whole, with failures, interrupted, half covered and pending."""
    store = FeatureStore.create(tmp_path_factory.mktemp("progress"))
    ds = store.create_dataset("d", shard_rows=SHARD_ROWS)
    ds.define_crop_set("c", RandomPolicy(policy="random", num_crops=V))
    ds.append_videos(pa.table({"video_id": [f"{i}.mp4" for i in range(len(STATUSES))]}))
    writer = ds.writer("c", "f", {"backbone": "b"}, D)
    for task in writer.todo():
        n = len(task)
        valid = np.array([[STATUSES[row] == "ok"] * V for row in task.rows])
        values = np.where(valid[:, :, None], 1.0, 0.0).repeat(D, 2).astype(np.float32)
        texts = [RowStatus(row, STATUSES[row], "" if STATUSES[row] == "ok" else "why") for row in task.rows.tolist()]
        writer.write(task, values, valid, np.ones((n, V, 9), np.float32), texts)
    ds.append_videos(pa.table({"video_id": [f"later {i}.mp4" for i in range(5)]}))
    return store


def check(ds: Dataset) -> None:
    table = ds.status("c", "f")
    assert ds.status_counts("c", "f") == Counter(table["status"].to_pylist())
    lines = table.to_pylist()
    assert ds.failed("c", "f").to_pylist() == [x for x in lines if x["status"] not in ("ok", "pending", "removed")]
    assert ds.undone_shards("c", "f") == sorted({x["shard"] for x in lines if x["status"] in UNDONE})
    for shard in range(5):
        assert ds.shard_statuses("c", "f", shard).tolist() == [x["status"] for x in lines if x["shard"] == shard]


def test_sums_are_those_of_the_rows_loose_and_packed(store: FeatureStore) -> None:
    check(store.dataset("d"))
    assert store.dataset("d").undone_shards("c", "f") == [2, 3, 4]
    compact_store(store, min_loose=1)
    check(store.dataset("d"))


@pytest.mark.parametrize("commits", [[19], [1] * 19, [3, 7, 9]], ids=str)
@pytest.mark.parametrize("removed", [[], [0, 5, 18]], ids=str)
def test_the_pieces_say_of_every_row_what_was_written(
    store: FeatureStore, commits: list[int], removed: list[int]
) -> None:
    ds = store.dataset("d")
    cuts = np.cumsum(commits)
    ids = [ds.by_row.select(["row", "video_id"]).slice(stop - n, n) for stop, n in zip(cuts, commits, strict=True)]
    pieces = list(status_pieces(ids, ds.ledger("c", "f"), SHARD_ROWS, np.array(removed, np.int64), piece_rows=2))
    assert len(pieces) == len({19: [0], 1: range(10)}.get(commits[0], commits))
    found = pa.concat_tables(pieces)
    wanted = ["removed" if row in removed else status for row, status in enumerate([*STATUSES, *["pending"] * 5])]
    assert found["status"].to_pylist() == wanted
    assert found["row"].to_pylist() == list(range(19))
    assert found["video_id"].to_pylist() == ds.by_row["video_id"].to_pylist()
    assert found["error"].to_pylist() == ["" if s in ("ok", "removed", "pending") else "why" for s in wanted]
    assert found["shard"].to_pylist() == [row // SHARD_ROWS for row in range(19)]
    assert found["generation"].null_count == 5


@pytest.mark.parametrize("rows", [[], [18], [7, 7, 0], [13, 14, 2, 3, 4, 12], list(range(19))], ids=str)
def test_the_status_of_some_rows_is_that_of_the_whole(store: FeatureStore, rows: list[int]) -> None:
    ds = store.dataset("d")
    wanted = ds.status("c", "f").take(pa.array(rows, pa.int64()))
    assert ds.status_of("c", "f", rows).to_pylist() == wanted.to_pylist()


def test_shards_with_a_status_to_be_tried_again(store: FeatureStore) -> None:
    ds = store.dataset("d")
    assert ds.undone_shards("c", "f", again=["missing"]) == [1, 2, 3, 4]
    assert ds.undone_shards("c", "f", again=["ok"]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("removed", [[5], [8], [14, 15, 16, 17, 18], [0, 7, 8, 13, 14, 15]])
def test_removed_videos_are_counted_apart_and_ask_for_nothing(
    store: FeatureStore, removed: list[int], tmp_path: Path
) -> None:
    ds = FeatureStore.open(shutil.copytree(store.url, tmp_path / "s"), mode="a").dataset("d")
    ds.remove_videos(removed)
    check(ds)
    check(ds.refresh())
    assert ds.status_counts("c", "f")["removed"] == len(removed)
