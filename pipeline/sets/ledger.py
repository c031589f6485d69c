"""The ledger of one set: which shards are done, and what is in force of each.

An entry is a file ``<shard>-<generation>.parquet``, created exclusively and last, or a part of a pack. A retry or an
append writes the next generation; the highest counts, older ones are history.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError
from pipeline.sets.binding import Binding, check_binding
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.sets.ledger_names import Packs, entry_key, loose_generations
from pipeline.sets.ledger_pack import Pack
from pipeline.storage.backend import StorageBackend
from pipeline.storage.fetch import fetch_each


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
