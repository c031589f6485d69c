"""A ledger entry: what is in one finished shard.

It is a sealed Parquet file, and the truth: a reader serves a row only if the checksums that its entry holds match the
bytes in the arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError
from pipeline.fingerprint import canonical_json
from pipeline.sets.ledger_lines import check_lines
from pipeline.sets.pack_group import PackedEntry
from pipeline.status import VideoStatus
from pipeline.storage.columns import values_of
from pipeline.storage.schema import LEDGER_SCHEMA, PENDING, SCHEMA_VERSION
from pipeline.storage.sealed import seal, unseal

UNDONE = frozenset({PENDING, VideoStatus.INTERRUPTED.value})
"""Statuses of rows that every run does again."""
REPLACED = "replaced"
"""Reason of an entry some rows of which were made from files that were catalogued again; no file says so."""


@dataclass(frozen=True, slots=True)
class RowStatus:
    """What became of one row."""

    row: int
    status: str
    """A :class:`pipeline.status.VideoStatus`, or ``pending`` for a row that a repair dropped."""
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    num_valid: int = 0
    """Valid crops (1 or 0 in an embedding set). Filled in by the writer."""


@dataclass(frozen=True)
class LedgerEntry:
    """One finished shard, in one generation. Covers the rows ``[row_start, row_stop)``."""

    shard: int
    generation: int
    row_start: int
    row_stop: int
    table: pa.Table
    """LEDGER_SCHEMA, one line a row."""
    fingerprint_id: str
    reason: str = "new"
    """new, appended, retry, repair or upgrade."""
    digests: Mapping[str, str] = field(default_factory=dict)
    """sha256 of each array's shard file as it was written."""
    device: str = ""
    seconds: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    differing: Mapping[str, Any] = field(default_factory=dict)
    """Accepted differences to the set's fingerprint: dotted field -> [stored, this shard's]."""
    written_at: str = ""
    written_by: str = ""
    ledger: str = ""
    """Key of the ledger that it was written for; empty where schema 1 wrote it."""
    videos: str = ""
    """Digest of the ids that `video_key` was made of, see :meth:`Binding.digest`; entries of before have none."""
    columns: dict[str, np.ndarray] = field(init=False, default_factory=dict, repr=False, compare=False)
    """Columns of numbers that were asked for."""

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers."""
        if name not in self.columns:
            self.columns[name] = values_of(self.table[name])
        return self.columns[name]

    @property
    def num_valid(self) -> np.ndarray:
        """Valid crops of each row."""
        return self.column("num_valid")

    @cached_property
    def statuses(self) -> list[str]:
        """Status of each row."""
        return self.table["status"].to_pylist()

    @cached_property
    def video_keys(self) -> np.ndarray | None:
        """Key of each row's video; None where schema 1 wrote the entry."""
        if "video_key" not in self.columns and self.table["video_key"].null_count:
            return None
        return self.column("video_key")

    def checksums(self, array: str) -> np.ndarray:
        """Return the crc32c of each row's bytes in an array (values, valid or geometry), uint32."""
        return self.column(f"{array}_crc32c")

    @cached_property
    def content_id(self) -> str:
        """What the rows hold, as one hash: equal for equal results, however long they took and whoever wrote them."""
        digest = hashlib.sha256(f"{self.row_start}:{self.row_stop}:{self.fingerprint_id}".encode())
        for name in ("num_valid", "values_crc32c", "valid_crc32c", "geometry_crc32c"):
            digest.update(self.column(name).tobytes())
        digest.update(self._status_text)
        return digest.hexdigest()

    @cached_property
    def _status_text(self) -> bytes:
        return "\n".join(self.statuses).encode()

    def without(self, former: np.ndarray, keys: np.ndarray) -> LedgerEntry:
        """Return the entry with some rows pending: what it says of them was made from a file that was replaced.

        Parameters
        ----------
        former : ndarray of bool
            Which rows.
        keys : ndarray of uint64
            Keys of the videos as they are now, of all rows.
        """
        blank = {"status": PENDING, "error": "its file was catalogued again", "attempts": 0, "seconds": 0.0}
        lines = self.table.to_pylist()
        for place, line in enumerate(lines):
            line["video_key"] = int(keys[place])
            if former[place]:
                line.update({name: blank.get(name, 0) for name in line if name not in ("row", "video_key")})
        return replace(self, table=pa.Table.from_pylist(lines, LEDGER_SCHEMA), reason=REPLACED, videos="")

    @property
    def _about(self) -> str:
        later = {name: found for name in _LATER if (found := getattr(self, name)) or name == "ledger"}
        return canonical_json({name: getattr(self, name) for name in _META} | later)

    def encode(self) -> bytes:
        """Return the entry as a sealed Parquet file."""
        about = {"kind": "ledger", "schema_version": str(SCHEMA_VERSION), "entry": self._about}
        return seal(self.table, about, is_small=True)

    def packed(self) -> PackedEntry:
        """Return the entry on its way into a pack."""
        return PackedEntry(self.shard, self.generation, self.row_start, self.table, self._about, self.content_id)

    @classmethod
    def unpack(cls, packed: PackedEntry, *, what: str) -> LedgerEntry:
        """Return an entry that was read from a pack; CorruptDataError where it is none."""
        entry = cls._about_lines(packed.table, packed.meta, packed.columns, what=what)
        if packed.status_text:
            entry.__dict__["_status_text"] = packed.status_text
        return entry if packed.is_checked else entry._checked(what)

    @classmethod
    def decode(cls, data: bytes, *, what: str) -> LedgerEntry:
        """Read an entry.

        Raises
        ------
        CorruptDataError
            If it is not byte for byte what was written.
        SchemaVersionError
            If a newer version of this project wrote it.
        """
        table, metadata = unseal(data, LEDGER_SCHEMA, what=what)
        return cls._about_lines(table, metadata.get("entry", ""), {}, what=what)._checked(what)

    @classmethod
    def _about_lines(cls, table: pa.Table, about: str, columns: Mapping[str, np.ndarray], *, what: str) -> LedgerEntry:
        try:
            meta = json.loads(about)
            named = {name: meta[name] for name in _META} | {name: str(meta.get(name, "")) for name in _LATER}
            entry = cls(table=table, **named)
            if not all(isinstance(meta[name], dict) for name in ("digests", "versions", "differing")):
                raise TypeError("digests, versions or differing are no mapping")
        except (KeyError, TypeError, ValueError) as err:
            raise _no_entry(what, err) from err
        entry.columns.update(columns)
        return entry

    def _checked(self, what: str) -> LedgerEntry:
        try:
            rows = self.column("row")
            check_lines(rows, np.arange(self.row_start, self.row_stop), self.num_valid, self.statuses)
            if self.table["video_key"].null_count not in (0, len(rows)):
                raise ValueError("some rows name no video")
        except (TypeError, ValueError) as err:
            raise _no_entry(what, err) from err
        return self


def _no_entry(what: str, err: Exception) -> CorruptDataError:
    return CorruptDataError(f"{what}: expected a ledger entry, found something else: {err}")


_META = ("shard", "generation", "row_start", "row_stop", "fingerprint_id", "reason", "digests", "device", "seconds",
         "versions", "differing", "written_at", "written_by")  # fmt: skip
_LATER = ("ledger", "videos")
"""What entries of before do not say."""


def make_table(
    statuses: list[RowStatus], checksums: Mapping[str, np.ndarray], video_keys: np.ndarray | None
) -> pa.Table:
    """Return the table of an entry from the rows' statuses, checksums and the keys of their videos."""
    n = len(statuses)
    columns: dict[str, Any] = {
        "row": [s.row for s in statuses],
        "status": [str(s.status) for s in statuses],
        "error": [s.error for s in statuses],
        "attempts": [s.attempts for s in statuses],
        "seconds": [s.seconds for s in statuses],
        "num_valid": [s.num_valid for s in statuses],
    }
    for name in ("values", "valid", "geometry"):
        columns[f"{name}_crc32c"] = checksums.get(name, np.zeros(n, np.uint32))
    columns["video_key"] = pa.nulls(n) if video_keys is None else video_keys
    return pa.table([pa.array(columns[f.name], f.type) for f in LEDGER_SCHEMA], schema=LEDGER_SCHEMA)
