"""Memory for batches: on whole cache lines, and never written while anybody can see it."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.sets.blocks import FeatureBlock
from pipeline.sets.buffers import BufferRing, aligned_empty
from pipeline.storage.memory import map_file
from tests.support.stores import CROPS, FEATURE_SET, make_store, make_values

SHAPES = {"values": ((3, 5), np.dtype("<f2")), "valid": ((3,), np.dtype(bool))}


@given(shape=st.lists(st.integers(0, 9), max_size=3), dtype=st.sampled_from(["<f2", "<f4", "?", "<i8"]))
def test_aligned_memory_is_like_empty_and_begins_at_a_cache_line(shape: list[int], dtype: str) -> None:
    array = aligned_empty(tuple(shape), dtype)
    plain = np.empty(tuple(shape), dtype)
    assert (array.shape, array.dtype) == (plain.shape, plain.dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.size == 0 or array.ctypes.data % 64 == 0


@given(keep=st.lists(st.sampled_from(["all", "values", "a row", "a memoryview", "nothing"]), max_size=12))
def test_memory_that_somebody_sees_is_never_handed_out_again(keep: list[str]) -> None:
    ring = BufferRing(SHAPES)
    held: list[tuple[object, int]] = []
    for number, what in enumerate(keep):
        arrays = ring.take()
        assert all(a.ctypes.data % 64 == 0 for a in arrays.values())
        assert {n: (a.shape, a.dtype) for n, a in arrays.items()} == SHAPES
        arrays["values"][:] = number
        arrays["valid"][:] = True
        seen = {
            "all": arrays,
            "values": arrays["values"],
            "a row": arrays["values"][1:].view(np.uint16)[0].view("<f2"),
            "a memoryview": memoryview(arrays["values"]),
            "nothing": None,
        }[what]
        held.append((seen, number))
        del arrays, seen
    for something, number in held:
        if something is not None:
            values = something["values"] if isinstance(something, dict) else something
            assert (np.asarray(values) == number).all()


def test_memory_that_nobody_sees_comes_round_again() -> None:
    ring = BufferRing(SHAPES, num_spare=1)
    first = ring.take()
    place = first["values"].ctypes.data
    row = first["values"][2]
    del first
    gc.collect()
    other = ring.take()
    assert other["values"].ctypes.data != place, "a row of it is still held"
    del row
    gc.collect()
    assert ring.take()["values"].ctypes.data == place
    del ring  # what is lent out outlives the ring
    other["values"][:] = 1


@pytest.mark.parametrize("size", [0, 1, 4096, (5 << 20) + 123])
def test_a_map_is_the_file_and_outlives_its_name(tmp_path: Path, size: int) -> None:
    """Small ones, and those that ask for huge pages."""
    content = np.random.default_rng(0).bytes(size)
    path = tmp_path / "f"
    path.write_bytes(content)
    mapped = map_file(path)
    path.unlink()
    assert mapped.tobytes() == content
    assert not mapped.flags.writeable


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return make_store(
        tmp_path_factory.mktemp("buffers") / "s", num_videos=61, statuses={5: "missing", 40: "unreadable"}
    )


@pytest.mark.parametrize("mode", ["host", "stream"])
def test_batches_that_are_kept_stay_what_they_were(store: FeatureStore, mode: str) -> None:
    values = make_values(np.arange(61), 4, 16).astype(np.float16)
    values[[5, 40]] = 0
    kept = list(store.dataset("toy").select().batches(CROPS, FEATURE_SET, 8, mode=mode))  # type: ignore[arg-type]
    for batch in kept:
        np.testing.assert_array_equal(batch.values, values[batch.rows])
        assert batch.values.ctypes.data % 64 == 0


def test_batches_that_are_dropped_share_two_buffers(store: FeatureStore) -> None:
    places = {b.values.ctypes.data for b in store.dataset("toy").select().batches(CROPS, FEATURE_SET, 4, mode="host")}
    assert len(places) <= 4  # two that alternate; the last batch, which is smaller, may have its own


@pytest.mark.parametrize(("shard_rows", "dim"), [(8, 16), (8, 60_001), (32, 2_500)])
def test_a_gathered_batch_is_what_indexing_says(tmp_path: Path, shard_rows: int, dim: int) -> None:
    """Against the slow obvious twin: rows without values, shards of one chunk or a chunk a row, a half-full one."""
    num = 2 * shard_rows + 5
    ds = make_store(
        tmp_path / "s", num_videos=num, num_crops=2, dim=dim, shard_rows=shard_rows,
        statuses={0: "missing", shard_rows: "unreadable", num - 1: "missing"},
    ).dataset("toy")  # fmt: skip
    rng = np.random.default_rng(0)
    sel = ds.select(rows=np.sort(rng.choice(num, num - 3, replace=False)))
    out = FeatureBlock.empty(4, 2, dim, "float16")
    for epoch in (0, 1):
        for batch in sel.batches(CROPS, FEATURE_SET, 4, epoch=epoch, mode="host", out=out):
            for i, row in enumerate(batch.rows.tolist()):
                slow = ds.select(rows=[row]).features(CROPS, FEATURE_SET)
                np.testing.assert_array_equal(batch.values[i], slow.values[0])
                np.testing.assert_array_equal(batch.valid[i], slow.valid[0])
                np.testing.assert_array_equal(batch.geometry[i], slow.geometry[0])
