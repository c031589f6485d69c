"""Batches: every row once, the same order for the same seed, resumable, in bounded memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, InvalidInputError, ShapeMismatchError
from pipeline.sets.batches import plan_blocks
from pipeline.sets.blocks import FeatureBlock
from pipeline.storage.layout import default_chunk_rows, shard_range, split_by_shard
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, make_values


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_store(tmp_path_factory.mktemp("batches") / "s", num_videos=103, statuses={5: "unreadable"})


@pytest.mark.parametrize("mode", ["host", "stream"])
@pytest.mark.parametrize("block_bytes", [1, 9000, 1 << 20])
def test_every_row_once_and_resumable(store: FeatureStore, mode: str, block_bytes: int) -> None:
    sel = store.dataset("toy").select(rows=np.arange(3, 100))
    values = make_values(np.arange(103), 4, 16).astype(np.float16)
    values[5] = 0

    def run(**options: object) -> list[FeatureBlock]:
        return list(sel.batches(CROPS, FEATURE_SET, 10, mode=mode, block_bytes=block_bytes, **options))  # type: ignore[arg-type]

    batches = run()
    for batch in batches:
        np.testing.assert_array_equal(batch.values, values[batch.rows])
        assert (np.diff(batch.rows) > 0).all()
        assert batch.valid.any(axis=1).tolist() == [r != 5 for r in batch.rows.tolist()]
    np.testing.assert_array_equal(np.sort(np.concatenate([b.rows for b in batches])), sel.rows)
    for start in (1, 4, 9, 10):
        rest = run(start_batch=start)
        assert [b.rows.tolist() for b in rest] == [b.rows.tolist() for b in batches[start:]]
        for a, b in zip(rest, batches[start:], strict=True):
            np.testing.assert_array_equal(a.values, b.values)
            np.testing.assert_array_equal(a.geometry, b.geometry)
    assert [b.rows.tolist() for b in run()] == [b.rows.tolist() for b in batches]
    assert [b.rows.tolist() for b in run(epoch=1)] != [b.rows.tolist() for b in batches]
    assert [len(b) for b in run(drop_last=True)] == [10] * 9
    plain = run(shuffle=False)
    np.testing.assert_array_equal(np.concatenate([b.rows for b in plain]), sel.rows)
    buffer = FeatureBlock.empty(10, 4, 16, "float16")
    held = sel.batches(CROPS, FEATURE_SET, 10, mode=mode, block_bytes=block_bytes, out=buffer)  # type: ignore[arg-type]
    for batch, other in zip(held, batches, strict=True):
        assert np.shares_memory(batch.values, buffer.values)
        np.testing.assert_array_equal(batch.values, other.values)


def test_impossible_requests_are_refused(store: FeatureStore) -> None:
    sel = store.dataset("toy").select()
    for options in ({"batch_size": 0}, {"mode": "gpu"}, {"start_batch": -1}):
        with pytest.raises(InvalidInputError):
            next(iter(sel.batches(CROPS, FEATURE_SET, **options)))  # type: ignore[arg-type]
    with pytest.raises(ShapeMismatchError, match=r"FeatureBlock\.empty"):
        sel.batches(CROPS, FEATURE_SET, 8, out=FeatureBlock.empty(8, 4, 17, "float16"))


def test_an_empty_selection_has_no_batches(store: FeatureStore) -> None:
    for mode in ("host", "stream"):
        assert list(store.dataset("toy").select(rows=[]).batches(CROPS, FEATURE_SET, mode=mode)) == []  # type: ignore[arg-type]


def test_damage_is_noticed_in_both_modes(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=40)
    path = tmp_path / f"s/toy/crops/{CROPS}/features/{FEATURE_SET}/values/c.3.0.0"
    data = bytearray(path.read_bytes())
    data[200] ^= 4
    path.write_bytes(data)
    for mode in ("host", "stream"):
        with pytest.raises(CorruptDataError):
            list(store.dataset("toy").select().batches(CROPS, FEATURE_SET, 8, mode=mode))  # type: ignore[arg-type]


def test_streaming_keeps_to_its_budget(tmp_path: Path) -> None:
    """A store of ten budgets: the memory that is allocated stays that of one."""
    store = make_store(
        tmp_path / "s", num_videos=640, dim=512, shard_rows=16, values=np.ones((640, 4, 512), np.float16)
    )
    sel = store.dataset("toy").select()
    budget = 640 * 4 * 512 * 2 // 10
    buffer = FeatureBlock.empty(32, 4, 512, "float16")
    list(sel.batches(CROPS, FEATURE_SET, 32, mode="stream", block_bytes=budget, out=buffer))  # ledgers are read now
    tracemalloc.start()
    try:
        for batch in sel.batches(CROPS, FEATURE_SET, 32, mode="stream", block_bytes=budget, out=buffer):
            assert len(batch) == 32
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * budget


@given(
    rows=st.sets(st.integers(0, 500)).map(lambda s: np.array(sorted(s), np.int64)),
    shard_rows=st.integers(1, 40),
    block_rows=st.integers(1, 200),
    shuffle=st.booleans(),
)
def test_blocks_hold_every_row_once_and_never_cut_a_shard(
    rows: np.ndarray, shard_rows: int, block_rows: int, shuffle: bool
) -> None:
    blocks = plan_blocks(rows, shard_rows, block_rows, shuffle=shuffle, seed=1, epoch=2)
    assert sorted(r for b in blocks for r in b.rows.tolist()) == rows.tolist()
    seen: set[int] = set()
    for block in blocks:
        shards = {shard for shard, _ in split_by_shard(block.rows, shard_rows)}
        assert not shards & seen
        seen |= shards
        assert len(block.rows) <= max(block_rows, shard_rows)
        assert sorted(block.order.tolist()) == list(range(len(block.rows)))


@given(num_rows=st.integers(0, 1000), shard_rows=st.integers(1, 300))
def test_shards_cover_every_row_once(num_rows: int, shard_rows: int) -> None:
    covered = [r for s in range(-(-num_rows // shard_rows)) for r in range(*shard_range(s, shard_rows, num_rows))]
    assert covered == list(range(num_rows))


@given(row_bytes=st.integers(1, 1 << 22), shard_rows=st.integers(1, 4096))
def test_chunks_divide_shards(row_bytes: int, shard_rows: int) -> None:
    chunk = default_chunk_rows(row_bytes, shard_rows)
    assert shard_rows % chunk == 0
    assert chunk in (1, shard_rows) or chunk * row_bytes >= 4096


def _shard_files(root: Path) -> list[Path]:
    return sorted(root.glob(f"toy/crops/{CROPS}/features/{FEATURE_SET}/values/c.*"))


def test_a_row_is_held_to_its_checksum_before_anyone_sees_it_and_others_are_served(tmp_path: Path) -> None:
    """The first epoch checks a row's values after it copied them; each row is damaged in turn."""
    make_store(tmp_path / "s", num_videos=12, shard_rows=4)
    for path in _shard_files(tmp_path / "s"):
        whole = path.read_bytes()
        for row in range(4):
            damaged = bytearray(whole)
            damaged[row * 128] ^= 1  # 4 crops x 16 channels x 2 bytes, one chunk
            path.write_bytes(damaged)
            sel = FeatureStore.open(tmp_path / "s").dataset("toy").select()
            served, failed = [], 0
            for start in range(12):
                batches = sel.batches(CROPS, FEATURE_SET, 1, shuffle=False, mode="host", start_batch=start)
                try:
                    served.append(int(next(batches).rows[0]))
                except CorruptDataError:
                    failed += 1
            assert failed == 1
            assert len(served) == 11
        path.write_bytes(whole)


def test_rows_that_a_killed_retry_replaced_come_from_what_it_set_aside(tmp_path: Path) -> None:
    make_store(tmp_path / "s", num_videos=12, shard_rows=4)
    sel = FeatureStore.open(tmp_path / "s").dataset("toy").select()
    expected = sel.features(CROPS, FEATURE_SET).values.copy()
    aside = tmp_path / f"s/toy/crops/{CROPS}/ledger/{FEATURE_SET}/_previous"
    aside.mkdir()
    for shard, path in enumerate(_shard_files(tmp_path / "s")):
        (aside / f"values-{shard}-0").write_bytes(path.read_bytes())
    first, second, *_ = _shard_files(tmp_path / "s")
    first.write_bytes(second.read_bytes())
    fresh = FeatureStore.open(tmp_path / "s").dataset("toy").select()
    for epoch in range(2):
        for batch in fresh.batches(CROPS, FEATURE_SET, 5, mode="host", epoch=epoch):
            np.testing.assert_array_equal(batch.values, expected[batch.rows])


@pytest.mark.parametrize("way", ["features", "batches"])
def test_rows_that_a_pinned_reader_has_read_stay_as_they_were_read(tmp_path: Path, way: str) -> None:
    valid = np.ones((12, 4), bool)
    valid[5, 2:] = False
    store = make_store(tmp_path / "s", num_videos=12, valid=valid, statuses={5: "partial"})
    selection = store.dataset("toy").select()

    def read() -> list[tuple[np.ndarray, ...]]:
        if way == "features":
            blocks = iter([selection.features(CROPS, FEATURE_SET)])
        else:
            blocks = selection.batches(CROPS, FEATURE_SET, 5, mode="host", shuffle=False)
        return [(b.values.copy(), b.valid.copy(), b.geometry.copy()) for b in blocks]

    before = read()
    fill(store, retry=["partial"], salt=0)
    for old, new in zip(before, read(), strict=True):
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one, other)
    assert store.dataset("toy").select(rows=[5]).features(CROPS, FEATURE_SET).valid.all()
