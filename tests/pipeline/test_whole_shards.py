"""A shard that is read and checked as a whole gives what it gives row by row, and nothing that is not as written."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, WrongVideoError
from pipeline.sets.binding import ids_digest
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.store.dataset import Dataset
from pipeline.store.facts import FACT_COLUMNS
from tests.support.toy_stores import CROPS, FEATURES, check_features, extract, geometry_of, make_store, valid_of, videos

SHARD_ROWS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards, the last one half full."""
    path = tmp_path_factory.mktemp("whole") / "s"
    make_store(path, num_videos=28, shard_rows=SHARD_ROWS)
    return path


def dataset(folder: Path, mode: str = "r") -> Dataset:
    return FeatureStore.open(folder, mode).dataset("toy")  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(rows=st.sets(st.integers(0, 27), min_size=1), batch_size=st.integers(1, 28))
def test_any_rows_in_any_batches(folder: Path, rows: set[int], batch_size: int) -> None:
    for batch in dataset(folder).select(rows=sorted(rows)).batches(CROPS, FEATURES, batch_size, mode="host"):
        np.testing.assert_array_equal(batch.valid, valid_of(batch.rows))
        np.testing.assert_array_equal(batch.geometry, geometry_of(batch.rows))


def a_flipped_bit(data: bytearray) -> bytearray:
    data[len(data) // 3] ^= 2
    return data


DAMAGES = {
    "a flipped bit": a_flipped_bit,
    "another offset in the index": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "another checksum of the index": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut short": lambda data: data[:-7],
    "empty": lambda data: data[:0],
    "longer": lambda data: data + b"\0" * 64,
}


@pytest.mark.parametrize("array", ["valid", "geometry"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_small_array_is_an_error_that_names_it(tmp_path: Path, damage: str, array: str) -> None:
    make_store(tmp_path / "s", num_videos=2 * SHARD_ROWS, shard_rows=SHARD_ROWS)
    (path,) = (tmp_path / "s/toy/crops" / CROPS).rglob(f"{array}/c.1.*")
    path.write_bytes(DAMAGES[damage](bytearray(path.read_bytes())))
    sel = dataset(tmp_path / "s").select()
    with pytest.raises(CorruptDataError, match=f"{array}.*nothing was returned"):
        list(sel.batches(CROPS, FEATURES, 4, mode="host"))
    first = dataset(tmp_path / "s").select(rows=range(SHARD_ROWS))
    assert len(first.features(CROPS, FEATURES)) == SHARD_ROWS


@pytest.mark.parametrize("array", ["values", "valid", "geometry"])
def test_who_goes_on_after_an_error_is_not_served_what_was_never_found(tmp_path: Path, array: str) -> None:
    """Rows whose shard was looked for in vain once counted as checked when all others were: zeros came of them."""
    make_store(tmp_path / "s", num_videos=2 * SHARD_ROWS, shard_rows=SHARD_ROWS)
    (path,) = (tmp_path / "s/toy/crops" / CROPS).rglob(f"{array}/c.1.*")
    path.unlink()
    sel = dataset(tmp_path / "s").select()
    with pytest.raises(CorruptDataError):
        list(sel.batches(CROPS, FEATURES, 2 * SHARD_ROWS, mode="host"))
    again = sel.batches(CROPS, FEATURES, SHARD_ROWS, mode="host", shuffle=False)
    np.testing.assert_array_equal(next(again).geometry, geometry_of(np.arange(SHARD_ROWS)))
    with pytest.raises(CorruptDataError):
        next(again)


def test_a_folder_in_the_place_of_a_small_array_is_no_traceback(tmp_path: Path) -> None:
    make_store(tmp_path / "s", num_videos=SHARD_ROWS, shard_rows=SHARD_ROWS)
    (path,) = (tmp_path / "s/toy/crops" / CROPS).rglob("valid/c.0.*")
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptDataError, match="valid"):
        dataset(tmp_path / "s").select().features(CROPS, FEATURES)


@given(pieces=st.lists(st.lists(st.text(max_size=5), max_size=6), max_size=4), start=st.integers(0, 9))
def test_the_digest_of_ids_is_that_of_their_lengths_and_texts(pieces: list[list[str]], start: int) -> None:
    column = pa.chunked_array([pa.array(piece, pa.string()) for piece in pieces], pa.string())[start:]
    encoded = [text.encode() for text in column.to_pylist()]
    lengths = np.array([len(text) for text in encoded], "<i4").tobytes()
    assert ids_digest(column) == hashlib.sha256(lengths + b"".join(encoded)).hexdigest()


def test_an_entry_vouches_for_the_ids_it_was_made_of_and_for_none_that_changed(tmp_path: Path) -> None:
    make_store(tmp_path / "s", num_videos=2 * SHARD_ROWS, shard_rows=SHARD_ROWS)
    first, second = dataset(tmp_path / "s").ledger(CROPS, FEATURES).entries()
    ids = dataset(tmp_path / "s").videos["video_id"]
    assert [first.videos, second.videos] == [ids_digest(ids[:SHARD_ROWS]), ids_digest(ids[SHARD_ROWS:])]
    other = make_store(tmp_path / "other", num_videos=1, shard_rows=SHARD_ROWS)
    other.dataset("toy").append_videos(videos(100, 100 + 2 * SHARD_ROWS - 1))
    shutil.copytree(tmp_path / "s/toy/crops", tmp_path / "other/toy/crops", dirs_exist_ok=True)
    with pytest.raises(WrongVideoError, match=r"row\(s\) 1, 2"):
        dataset(tmp_path / "other").select().features(CROPS, FEATURES)


def test_an_entry_with_rows_of_videos_that_changed_says_nothing_of_its_ids(tmp_path: Path) -> None:
    make_store(tmp_path / "s", num_videos=3 * SHARD_ROWS, shard_rows=SHARD_ROWS)
    changing = dataset(tmp_path / "s", "a")
    facts = changing.by_row.select(FACT_COLUMNS).slice(3, 1).to_pylist()[0] | {"sha256": "f" * 64}
    changing.change_facts({3: facts})
    changing.remove_videos([SHARD_ROWS + 1], erase=True)
    changing.erase_removed()
    extract(dataset(tmp_path / "s", "a"))
    entries = list(dataset(tmp_path / "s").ledger(CROPS, FEATURES).entries())
    assert [entry.generation for entry in entries] == [1, 1, 0]
    assert [bool(entry.videos) for entry in entries] == [False, False, True]
    check = dataset(tmp_path / "s").select().features(CROPS, FEATURES)
    assert check.valid[check.rows == 3].any()
    assert not check.valid[check.rows == SHARD_ROWS + 1].any()


def test_entries_of_before_say_nothing_of_it_and_are_read_on(tmp_path: Path) -> None:
    make_store(tmp_path / "s", num_videos=SHARD_ROWS, shard_rows=SHARD_ROWS)
    (path,) = (tmp_path / "s/toy/crops" / CROPS / "ledger" / FEATURES).glob("*.parquet")
    entry = LedgerEntry.decode(path.read_bytes(), what="it")
    before = replace(entry, videos="").encode()
    assert b"videos" not in before
    path.write_bytes(before)
    check_features(dataset(tmp_path / "s"))
