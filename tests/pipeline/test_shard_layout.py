"""Shards as bytes: what plain zarr writes, except that chunks begin at whole cache lines; any packing is read."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline import FeatureStore
from pipeline.sets.ledger import Ledger, entry_key
from pipeline.sets.mapped import chunks_hold, open_shard_file
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.layout import ArrayLayout
from pipeline.storage.shardfile import encode_shard, parse_index
from pipeline.verify.verify_store import verify_store
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, make_values, video_table


@pytest.mark.parametrize("dim", [1_000, 60_001])
def test_our_chunks_are_byte_for_byte_what_zarr_writes(tmp_path: Path, dim: int) -> None:
    """Shards of one chunk (small rows) are the same file; others hold the same chunks, each on a whole cache line."""
    make_store(tmp_path / "s", num_videos=19, dim=dim, num_crops=2)
    folder = tmp_path / f"s/toy/crops/{CROPS}/features/{FEATURE_SET}/values"
    ours = zarr.open_array(folder, mode="r")
    theirs = zarr.create_array(
        tmp_path / "z", shape=ours.shape, dtype=ours.dtype, chunks=ours.chunks, shards=ours.shards,
        compressors=zarr.codecs.Crc32cCodec(), fill_value=ours.fill_value, config={"write_empty_chunks": True},
        chunk_key_encoding={"name": "default", "separator": "."},
    )  # fmt: skip
    theirs[:] = ours[:]
    layout = ArrayLayout((2, dim), np.dtype("<f2"), 8, 8 if dim == 1_000 else 1)
    for name in ("c.0.0.0", "c.1.0.0", "c.2.0.0"):
        mine, zarrs = (folder / name).read_bytes(), (tmp_path / "z" / name).read_bytes()
        if dim == 1_000:
            assert mine == zarrs, name
        rest = bytearray(mine)
        chunks, places = [], []
        for data in (mine, zarrs):
            offsets = parse_index(data[-layout.index_bytes :], layout, len(data), what=name)
            places.append(offsets)
            chunks.append([data[at : at + layout.chunk_bytes] for at in offsets.tolist() if at >= 0])
        assert chunks[0] == chunks[1], name
        assert ((places[0] < 0) == (places[1] < 0)).all()
        assert (places[0][places[0] >= 0] % 64 == 0).all()
        for at in places[0][places[0] >= 0].tolist():
            rest[at : at + layout.chunk_bytes] = bytes(layout.chunk_bytes)
        assert not any(rest[: -layout.index_bytes]), "zeros between the chunks"


@pytest.mark.parametrize("chunk_rows", [1, 2, 4])
@pytest.mark.parametrize("step", [0, 4, 64, 100])
def test_shards_packed_in_any_way_give_the_same_rows(tmp_path: Path, chunk_rows: int, step: int) -> None:
    """Stores written before chunks were aligned, and those that plain zarr wrote, are packed tightly."""
    layout = ArrayLayout((3, 7), np.dtype("<f2"), 4, chunk_rows)
    rows = np.arange(3 * 21, dtype="<f2").reshape(3, 3, 7)
    backend = LocalBackend(tmp_path)
    backend.put("a/c.0.0.0", encode_shard(rows, layout, layout.chunk_bytes + step))
    opened = open_shard_file(backend, "a/c.0.0.0", layout)
    got = np.empty_like(rows)
    opened.gather(np.arange(3), got)
    np.testing.assert_array_equal(got, rows)
    memory = opened.raw
    for local in range(3):
        piece, start = opened.locate(np.array([local]))
        np.testing.assert_array_equal(opened.row(local), rows[local])
        found = memory[int(piece[0])][int(start[0]) :][: layout.row_bytes]
        assert bytes(found) == rows[local].tobytes()
    assert chunks_hold(backend, "a/c.0.0.0", layout)


def test_a_store_with_tightly_packed_shards_is_read_verified_repaired_and_continued(tmp_path: Path) -> None:
    """As written before chunks were aligned: the ledger's digests are of the tight files."""
    make_store(tmp_path / "s", num_videos=12, dim=60_001, num_crops=2)
    backend = LocalBackend(tmp_path / "s")
    features = f"toy/crops/{CROPS}/features/{FEATURE_SET}"
    layout = ArrayLayout((2, 60_001), np.dtype("<f2"), 8, 1)
    ledger_key = f"toy/crops/{CROPS}/ledger/{FEATURE_SET}"
    ledger = Ledger(backend, ledger_key, binding=None)
    for shard in (0, 1):
        key = f"{features}/values/c.{shard}.0.0"
        opened = open_shard_file(backend, key, layout)
        rows = np.empty((opened.num_rows, 2, 60_001), "<f2")
        opened.gather(np.arange(len(rows)), rows)
        tight = encode_shard(rows, layout, layout.chunk_bytes)
        backend.put(key, tight)
        entry = ledger.entry(shard)
        assert entry is not None
        digests = dict(entry.digests, values=hashlib.sha256(tight).hexdigest())
        backend.delete(entry_key(ledger_key, shard, 0))
        backend.create(entry_key(ledger_key, shard, 0), replace(entry, digests=digests).encode())
    store = FeatureStore.open(tmp_path / "s", "a")
    want = make_values(np.arange(14), 2, 60_001).astype(np.float16)
    np.testing.assert_array_equal(store.dataset("toy").select().features(CROPS, FEATURE_SET).values, want[:12])
    assert verify_store(store).problems == ()
    path = tmp_path / "s" / features / "values/c.0.0.0"
    data = bytearray(path.read_bytes())
    data[layout.row_bytes + 1] ^= 1  # in a checksum, beside the rows
    path.write_bytes(data)
    assert not verify_store(store).is_clean
    assert verify_store(store, repair=True).is_clean
    assert verify_store(store).problems == ()
    store.dataset("toy").append_videos(video_table(2, first=12))
    assert fill(store, dim=60_001) == 1
    np.testing.assert_array_equal(store.dataset("toy").select().features(CROPS, FEATURE_SET).values, want)
    assert verify_store(store).problems == ()


def test_a_flipped_byte_between_chunks_is_found_by_verify(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=8, dim=4, num_crops=3_700)  # geometry rows of 133 KB: a chunk each
    before = store.dataset("toy").select().features(CROPS, FEATURE_SET)
    path = tmp_path / f"s/toy/crops/{CROPS}/geometry/c.0.0.0"
    data = bytearray(path.read_bytes())
    layout = ArrayLayout((3_700, 9), np.dtype("<f4"), 8, 1)
    assert layout.chunk_step > layout.chunk_bytes
    data[layout.chunk_bytes + 3] ^= 8
    path.write_bytes(data)
    after = FeatureStore.open(tmp_path / "s").dataset("toy").select().features(CROPS, FEATURE_SET)
    np.testing.assert_array_equal(before.geometry, after.geometry)
    store = FeatureStore.open(tmp_path / "s", "a")
    assert not verify_store(store).is_clean
    assert verify_store(store, repair=True).is_clean
    assert verify_store(store).problems == ()
