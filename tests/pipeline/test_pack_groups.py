"""Entries that are read together are what each is alone, and one that is wrong takes no other with it."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorruptDataError
from pipeline.sets.ledger_entry import LedgerEntry, RowStatus, make_table
from pipeline.sets.ledger_pack import encode_pack
from pipeline.sets.pack_group import PACK_SCHEMA, EntryGroup

STATUSES = ["ok", "partial", "unreadable", "pending"]


def make_entry(shard: int, row_start: int, statuses: list[str], *, is_named: bool = True) -> LedgerEntry:
    rng = np.random.default_rng(shard)
    n = len(statuses)
    rows = [RowStatus(row_start + k, s, num_valid=int(s in ("ok", "partial"))) for k, s in enumerate(statuses)]
    checksums = {name: rng.integers(0, 1 << 32, n, np.uint32) for name in ("values", "valid", "geometry")}
    keys = rng.integers(1, 1 << 63, n).astype(np.uint64) if is_named else None
    return LedgerEntry(
        shard, shard % 3, row_start, row_start + n, make_table(rows, checksums, keys), "f" * 16, ledger="toy/ledger/x"
    )


def lines_of(entries: list[LedgerEntry]) -> pa.Table:
    packed = [entry.packed() for entry in entries]
    data = encode_pack(packed, ledger="toy/ledger/x", number=0, supersedes=(), standing=(), lines_per_group=1 << 20)
    return pq.read_table(io.BytesIO(data))


def group_of(entries: list[LedgerEntry], lines: pa.Table) -> EntryGroup:
    sizes = [entry.table.num_rows for entry in entries]
    return EntryGroup.of(
        lines, np.array([e.shard for e in entries]), np.array([e.row_start for e in entries]), np.cumsum([0, *sizes])
    )


def read(group: EntryGroup, entries: list[LedgerEntry], place: int) -> LedgerEntry:
    packed = group.entry(place, entries[place].generation, entries[place].content_id)
    return LedgerEntry.unpack(packed, what="a pack")


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=5), min_size=1, max_size=6),
    is_named=st.booleans(),
)
def test_entries_of_a_group_are_those_that_went_in(sizes: list[list[str]], is_named: bool) -> None:
    entries, row = [], 0
    for shard, statuses in enumerate(sizes):
        entries.append(make_entry(2 * shard, row, statuses, is_named=is_named))
        row += len(statuses) + shard
    group = group_of(entries, lines_of(entries))
    assert group.is_good
    for place, entry in enumerate(entries):
        found = read(group, entries, place)
        assert found == entry
        assert found.content_id == entry.content_id
        np.testing.assert_array_equal(found.checksums("values"), entry.checksums("values"))


def changed(name: str, change: Callable[[list], None]) -> Callable[[pa.Table], pa.Table]:
    def apply(lines: pa.Table) -> pa.Table:
        column = lines[name].to_pylist()
        change(column)
        field = PACK_SCHEMA.field(name)
        values = pa.array(column).dictionary_encode() if name == "entry" else pa.array(column, field.type)
        return lines.set_column(PACK_SCHEMA.get_field_index(name), field.name, values)

    return apply


def put(place: int, value: object) -> Callable[[list], None]:
    return lambda column: column.__setitem__(place, value)


WRONG = {
    "another row": changed("row", put(5, 99)),
    "rows in another order": changed("row", lambda column: column.__setitem__(slice(4, 6), column[5:3:-1])),
    "a status that is none": changed("status", put(5, "splendid")),
    "fewer than no crops": changed("num_valid", put(5, -1)),
    "a row of nobody's": changed("video_key", put(5, None)),
    "another shard's line": changed("shard", put(5, 7)),
    "another entry's line": changed("entry", lambda column: column.__setitem__(5, column[0])),
    "words about nothing": changed("entry", lambda column: column.__setitem__(slice(4, 8), ["{}"] * 4)),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_in_one_entry_is_said_of_that_one_alone(what: str) -> None:
    entries = [make_entry(shard, 4 * shard, ["ok", "partial", "ok", "unreadable"]) for shard in range(4)]
    group = group_of(entries, WRONG[what](lines_of(entries)))
    for place in (0, 2, 3):
        assert read(group, entries, place) == entries[place]
    with pytest.raises((CorruptDataError, ValueError), match="expected"):
        read(group, entries, 1)


def test_an_index_that_says_other_places_than_the_lines_is_noticed() -> None:
    entries = [make_entry(shard, 4 * shard, ["ok"] * 4) for shard in range(3)]
    lines, shards, starts = lines_of(entries), np.arange(3), np.arange(0, 12, 4)
    for edges in ([0, 4, 8, 16], [0, 4, 4, 12], [1, 4, 8, 12], [0, 5, 8, 12]):
        group = EntryGroup.of(lines, shards, starts, np.array(edges))
        assert not group.is_good
        refused = 0
        for place in range(3):
            try:
                assert read(group, entries, place) == entries[place]
            except (CorruptDataError, ValueError):
                refused += 1
        assert refused, edges
    assert not EntryGroup.of(lines, shards, starts + np.array([0, 1, 0]), np.array([0, 4, 8, 12])).is_good


def test_what_an_entry_says_of_itself_stands_in_a_row_group_once() -> None:
    """Arrow gives up a dictionary when the next entry brings another, and writes the text in every line instead."""
    entries = [make_entry(shard, 64 * shard, ["ok"] * 64) for shard in range(20)]
    packed = [entry.packed() for entry in entries]
    data = encode_pack(packed, ledger="toy/ledger/x", number=0, supersedes=(), standing=(), lines_per_group=640)
    footer = pq.ParquetFile(io.BytesIO(data)).metadata
    column = PACK_SCHEMA.get_field_index("entry")
    about = sum(len(one.meta) for one in packed)
    assert footer.num_row_groups == 2
    assert sum(footer.row_group(k).column(column).total_uncompressed_size for k in range(2)) < 2 * about
