"""The ledger: which shards are done, and what is in them.

An entry is a sealed Parquet file ``<shard>-<generation>.parquet``, created exclusively and last. It is the truth: a
reader serves a row only if the checksums that its entry holds match the bytes in the arrays. A retry or an append
writes the next generation; the highest counts, older ones are history.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError
from pipeline.fingerprint import canonical_json
from pipeline.sets.binding import Binding, check_binding
from pipeline.sets.ledger_names import Packs, entry_key, loose_generations
from pipeline.sets.ledger_pack import Pack, PackedEntry
from pipeline.status import VideoStatus
from pipeline.storage.backend import StorageBackend
from pipeline.storage.columns import values_of
from pipeline.storage.fetch import fetch_each
from pipeline.storage.schema import LEDGER_SCHEMA, PENDING, SCHEMA_VERSION
from pipeline.storage.sealed import seal, unseal

_STATUSES = frozenset(VideoStatus) | {PENDING}
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

    @cached_property
    def num_valid(self) -> np.ndarray:
        """Valid crops of each row."""
        return values_of(self.table["num_valid"])

    @cached_property
    def statuses(self) -> list[str]:
        """Status of each row."""
        return self.table["status"].to_pylist()

    @cached_property
    def video_keys(self) -> np.ndarray | None:
        """Key of each row's video; None where schema 1 wrote the entry."""
        column = self.table["video_key"]
        return None if column.null_count else values_of(column)

    def checksums(self, array: str) -> np.ndarray:
        """Return the crc32c of each row's bytes in an array (values, valid or geometry), uint32."""
        return values_of(self.table[f"{array}_crc32c"])

    @cached_property
    def content_id(self) -> str:
        """What the rows hold, as one hash: equal for equal results, however long they took and whoever wrote them."""
        digest = hashlib.sha256(f"{self.row_start}:{self.row_stop}:{self.fingerprint_id}".encode())
        for name in ("num_valid", "values_crc32c", "valid_crc32c", "geometry_crc32c"):
            digest.update(values_of(self.table[name]).tobytes())
        digest.update("\n".join(self.statuses).encode())
        return digest.hexdigest()

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
        return cls._made_of(packed.table, packed.meta, what=what)

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
        return cls._made_of(table, metadata.get("entry", ""), what=what)

    @classmethod
    def _made_of(cls, table: pa.Table, about: str, *, what: str) -> LedgerEntry:
        try:
            meta = json.loads(about)
            named = {name: meta[name] for name in _META} | {name: str(meta.get(name, "")) for name in _LATER}
            entry = cls(table=table, **named)
            rows = values_of(table["row"])
            if not np.array_equal(rows, np.arange(entry.row_start, entry.row_stop)):
                raise ValueError("its rows are not those it says")
            if len(rows) and values_of(table["num_valid"]).min() < 0:
                raise ValueError("a row with fewer than no valid crops")
            if unknown := set(entry.statuses) - _STATUSES:
                raise ValueError(f"unknown statuses {', '.join(sorted(unknown))}")
            if table["video_key"].null_count not in (0, len(rows)):
                raise ValueError("some rows name no video")
            if not all(isinstance(meta[name], dict) for name in ("digests", "versions", "differing")):
                raise TypeError("digests, versions or differing are no mapping")
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptDataError(f"{what}: expected a ledger entry, found something else: {err}") from err
        return entry


_META = ("shard", "generation", "row_start", "row_stop", "fingerprint_id", "reason", "digests", "device", "seconds",
         "versions", "differing", "written_at", "written_by")  # fmt: skip
_LATER = ("ledger", "videos")
"""What entries of before do not say."""


class EntrySummary(NamedTuple):
    """What a ledger says about a shard at a glance; of a packed entry without reading it."""

    shard: int
    generation: int
    row_start: int
    row_stop: int
    content_id: str
    counts: Mapping[str, int]
    """Rows by status."""


_NOTHING_MORE = EntrySummary(1 << 62, -1, 0, 0, "", {})


class Ledger:
    """The ledger of one set as it stood at one moment: names are listed once, entries read when first needed.

    Entries are immutable, so a name pins its content.

    Parameters
    ----------
    binding : Binding or None
        What every entry is held to before anybody sees it; None only for who checks that another way (repairs).
    """

    def __init__(
        self,
        backend: StorageBackend,
        key: str,
        generations: Mapping[int, int] | None = None,
        *,
        binding: Binding | None,
        packs: Packs | None = None,
    ) -> None:
        self._backend = backend
        self.key = key
        self.binding = binding
        self.num_loose = 0
        """Entries in files of their own."""
        if generations is None:
            loose = loose_generations(backend, key)
            packs = Packs(backend, key, packs)
            generations = packs.newest()
            for shard, found in loose.items():
                self.num_loose += len(found)
                generations[shard] = max(generations.get(shard, -1), found[-1])
        self.generations = dict(generations)
        """Highest generation of each shard that has an entry."""
        self.packs = packs
        """What is known of its packs; None: they were not looked at."""
        self._entries: dict[int, LedgerEntry] = {}

    def entry(self, shard: int) -> LedgerEntry | None:
        """Return a shard's entry, or None where there is none.

        Raises
        ------
        CorruptDataError
            If the entry is damaged, of another ledger, or of other videos than the catalogue's.
        SnapshotChangedError
            If it was removed since the names were listed.
        """
        if shard not in self.generations:
            return None
        if shard not in self._entries:
            self._entries[shard] = self._read(shard)
        return self._entries[shard]

    def _read(self, shard: int) -> LedgerEntry:
        generation = self.generations[shard]
        what = entry_key(self.key, shard, generation)
        found = None if self.packs is None else self.packs.find(shard, generation)
        try:
            if found is None:
                entry = LedgerEntry.decode(self._backend.read(what), what=what)
            else:
                entry = unpacked(*found)
        except NotFoundError:  # compacted since the names were listed
            self.packs = Packs(self._backend, self.key, self.packs)
            found = self.packs.find(shard, generation)
            if found is None:
                raise SnapshotChangedError(
                    f"expected the ledger entry {what}, found that it was removed (by a repair); open the store again"
                ) from None
            entry = unpacked(*found)
        if (entry.shard, entry.generation) != (shard, generation):
            raise CorruptDataError(f"{what}: expected the entry of this shard, found {entry.shard}-{entry.generation}")
        if entry.ledger not in ("", self.key):
            raise CorruptDataError(f"{what}: expected an entry of this ledger, found one of {entry.ledger}")
        if self.binding is not None:
            former = check_binding(
                entry.video_keys, entry.row_start, entry.row_stop, self.binding, digest=entry.videos, what=what
            )
            if former is not None:
                return entry.without(former, self.binding.keys(entry.row_start, entry.row_stop))
        return entry

    def entries(self) -> Iterator[LedgerEntry]:
        """Yield all entries in force, by shard, keeping none that was not fetched together with others."""
        shards = sorted(self.generations)
        self.fetch(shards)
        for shard in shards:
            entry = self.passing(shard)
            assert entry is not None
            yield entry

    def passing(self, shard: int) -> LedgerEntry | None:
        """Return :meth:`entry` without keeping it in memory."""
        if shard in self._entries or shard not in self.generations:
            return self._entries.get(shard)
        return self._read(shard)

    def fetch(self, shards: Iterable[int]) -> None:
        """Read the entries of some shards that lie in files of their own, many at once where that is faster."""
        if self._backend.is_local:
            return
        wanted = [s for s in shards if s in self.generations and s not in self._entries and not self._is_packed(s)]
        found = zip(wanted, fetch_each(self._backend, wanted, self._read_good), strict=True)
        self._entries.update({shard: entry for shard, entry in found if entry is not None})

    def _read_good(self, shard: int) -> LedgerEntry | None:
        try:
            return self._read(shard)
        except CorruptDataError:
            return None  # who asks for it is told

    def _is_packed(self, shard: int) -> bool:
        return self.packs is not None and self.packs.find(shard, self.generations[shard]) is not None

    def summary(self, shard: int) -> EntrySummary | None:
        """Return what is in force of a shard, or None; a packed entry is not read. Raises as :meth:`entry`."""
        if shard not in self.generations:
            return None
        generation = self.generations[shard]
        found = None if self.packs is None else self.packs.index_of(shard, generation)
        if found is not None and self.binding is not None:
            span = int(found[0].row_start[found[1]]), int(found[0].row_stop[found[1]])
            found = None if self.binding.has_former(*span) else found
        if found is None:
            entry = self.entry(shard)
            assert entry is not None
            counts = Counter(entry.statuses)
            return EntrySummary(shard, generation, entry.row_start, entry.row_stop, entry.content_id, counts)
        return EntrySummary(shard, generation, *found[0].glance(found[1]))

    def packed(self) -> Iterator[EntrySummary]:
        """Yield what is in force at a glance of the shards whose entries lie in packs, by shard."""
        for found in () if self.packs is None else self.packs.newest_at_a_glance():
            is_it = self.generations.get(found[0]) == found[1]
            if is_it and not (self.binding and self.binding.has_former(found[2], found[3])):
                yield EntrySummary(*found)

    def summaries(self) -> Iterator[EntrySummary]:
        """Yield what is in force at a glance, by shard."""
        shards = sorted(self.generations)
        self.fetch(shards)
        packed, found = self.packed(), EntrySummary(-1, -1, 0, 0, "", {})
        for shard in shards:
            while found.shard < shard:
                found = next(packed, _NOTHING_MORE)
            if (summary := found if found.shard == shard else self.summary(shard)) is not None:
                yield summary

    def refreshed(self) -> Ledger:
        """Return the ledger as it stands now, keeping what was read."""
        fresh = Ledger(self._backend, self.key, binding=self.binding, packs=self.packs)
        fresh._entries = {s: e for s, e in self._entries.items() if fresh.generations.get(s) == e.generation}
        return fresh

    def remember(self, entry: LedgerEntry) -> None:
        """Take in an entry that was just written."""
        if self.generations.get(entry.shard, -1) <= entry.generation:
            self.generations[entry.shard] = entry.generation
            self._entries[entry.shard] = entry
            self.num_loose += 1


def unpacked(pack: Pack, place: int) -> LedgerEntry:
    """Return an entry of a pack, or of the pack's copy where it does not match the index; NotFoundError: pack gone."""
    expected = pack.index.content_id[place].decode()
    while True:
        try:
            entry = LedgerEntry.unpack(pack.entry(place), what=pack.key)
            if entry.content_id != expected:
                raise CorruptDataError(f"{pack.key}: expected the entry of shard {entry.shard}, found other rows")
            return entry
        except CorruptDataError:
            if not pack.use_copy():
                raise


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


UNDONE = frozenset({PENDING, VideoStatus.INTERRUPTED.value})
"""Statuses of rows that every run does again."""
