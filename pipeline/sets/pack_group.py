"""A row group of a pack in memory: the lines of a few entries, checked together where nothing is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipeline.sets.ledger_lines import check_lines
from pipeline.storage.columns import values_of
from pipeline.storage.schema import LEDGER_SCHEMA

PACK_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("generation", pa.int64(), nullable=False),
        *LEDGER_SCHEMA,
        pa.field("entry", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    ]
)
"""`entry` is what stands in the footer of a single entry's file."""


@dataclass(frozen=True)
class PackedEntry:
    """One entry on its way into a pack or out of it."""

    shard: int
    generation: int
    row_start: int
    table: pa.Table
    """LEDGER_SCHEMA."""
    meta: str
    """JSON: what the entry says about itself."""
    content_id: str
    columns: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    """Columns of the table that are at hand as arrays."""
    status_text: bytes = field(default=b"", repr=False, compare=False)
    """The statuses, a line each, where they are at hand."""
    is_checked: bool = field(default=False, compare=False)
    """Whether the lines were held to what :meth:`LedgerEntry.unpack` expects of them."""


@dataclass(frozen=True)
class EntryGroup:
    """Entries that were read together: what is asked of each is asked once of all of them."""

    table: pa.Table
    """LEDGER_SCHEMA, each column in one piece."""
    columns: dict[str, np.ndarray]
    """Of the table, those of numbers that have no nulls."""
    status: np.ndarray
    statuses: list[str]
    """Of each line which of `statuses` is its own."""
    shard: np.ndarray
    meta: np.ndarray
    metas: list[str]
    """Of each line which of `metas` is its entry's."""
    shards: np.ndarray
    row_starts: np.ndarray
    edges: np.ndarray
    """What the pack's index says of the entries: first line of each, and the end."""
    is_good: bool
    """Whether all lines are where the index says and what lines must be; otherwise each entry is looked at alone."""

    @classmethod
    def of(cls, lines: pa.Table, shards: np.ndarray, row_starts: np.ndarray, edges: np.ndarray) -> EntryGroup:
        """Take in the lines of a row group.

        Parameters
        ----------
        shards, row_starts : ndarray of shape (n,), int64
            What the index says of the entries that begin in it.
        edges : ndarray of shape (n + 1,), int64
            The first line of each, and the line after the last.

        Raises
        ------
        pyarrow.ArrowException, KeyError, ValueError
            If they are no entries' lines.
        """
        lines = lines.select(PACK_SCHEMA.names).cast(PACK_SCHEMA).combine_chunks()
        meta = pa.concat_arrays(lines["entry"].chunks)
        table = lines.select(LEDGER_SCHEMA.names)
        status = pa.concat_arrays(table["status"].chunks).dictionary_encode()
        if meta.null_count or status.null_count:
            raise ValueError("lines that say nothing of their entry or have no status")
        columns = {
            f.name: values_of(table[f.name])
            for f in LEDGER_SCHEMA
            if pa.types.is_integer(f.type) and not table[f.name].null_count
        }
        group = cls(
            table, columns, values_of(status.indices), status.dictionary.to_pylist(), values_of(lines["shard"]),
            values_of(meta.indices), meta.dictionary.to_pylist(), shards, row_starts, edges, False,
        )  # fmt: skip
        return replace(group, is_good=group._is_good())

    def _is_good(self) -> bool:
        sizes, num_lines = np.diff(self.edges), len(self.shard)
        if not len(sizes) or self.edges[0] or self.edges[-1] != num_lines or not sizes.all():
            return False
        entry = np.repeat(np.arange(len(sizes)), sizes)
        expected = (self.row_starts - self.edges[:-1])[entry] + np.arange(num_lines)
        try:
            check_lines(self.columns["row"], expected, self.columns["num_valid"], self.statuses)
        except (KeyError, TypeError, ValueError):
            return False
        is_named = "video_key" in self.columns or self.table["video_key"].null_count == num_lines
        are_together = (self.shard == self.shards[entry]) & (self.meta == self.meta[self.edges[:-1]][entry])
        return is_named and bool(are_together.all())

    def entry(self, place: int, generation: int, content_id: str) -> PackedEntry:
        """Return an entry by its place in the row group.

        Raises
        ------
        ValueError
            If its lines are not where the index says.
        """
        start, stop = self.edges[place : place + 2].tolist()
        shard = int(self.shards[place])
        if not self.is_good:
            shards, metas = self.shard[start:stop], self.meta[start:stop]
            if not 0 < stop - start == len(shards) or (shards != shard).any() or (metas != metas[0]).any():
                raise ValueError("expected an entry where its index says, found another entry's lines")
        return PackedEntry(
            shard, generation, int(self.row_starts[place]), self.table.slice(start, stop - start),
            self.metas[int(self.meta[start])], content_id,
            {name: column[start:stop] for name, column in self.columns.items()},
            self._status_text(start, stop), self.is_good,
        )  # fmt: skip

    def _status_text(self, start: int, stop: int) -> bytes:
        status = self.status[start:stop]
        return _repeated(self.statuses[status[0]], len(status)) if (status == status[0]).all() else b""


@lru_cache(maxsize=64)
def _repeated(status: str, n: int) -> bytes:
    return "\n".join([status] * n).encode()
