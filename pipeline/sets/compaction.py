"""Compacting a ledger: the entries of many shards into packs, at any time, beside writers and readers.

Each step is durable before the next, so that whoever dies in between leaves nothing that is lost and nothing that
counts twice:

1. the pack is created exclusively, then its copy;
2. the files of the entries that it holds are deleted. Who pinned one of them finds the same generation in the pack;
3. packs that an *earlier* compaction merged into larger ones are deleted: a reader's listing may take as long as one
   compaction, and still meets every entry.

The lock that commits need is held for one pack at a time. Sizes of packs are kept apart by a factor, so that an entry
is rewritten a few times however large the ledger grows, and a full pack never again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.errors import AlreadyExistsError, CorruptDataError, NotFoundError
from pipeline.sets.ledger import unpacked
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.sets.ledger_names import Packs, entry_key, loose_generations
from pipeline.sets.ledger_pack import PACK_SIZE, Pack, PackSize, check_pack, encode_pack
from pipeline.sets.pack_group import PackedEntry
from pipeline.storage.backend import StorageBackend
from pipeline.storage.fetch import fetch_each
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import pack_copy_key, pack_key

MIN_LOOSE = 64
"""Fewer entries are not worth a pack."""
COMPACT_AFTER = 256
"""A writer compacts when so many entries lie in files of their own."""
MERGE_FACTOR = 2
"""A pack goes into the next one unless it is more than so many times as large."""
Name = tuple[int, int]
"""(shard, generation)."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did."""

    num_entries: int = 0
    """Entries that lay in files of their own and are in a pack now."""
    num_packs: int = 0
    """Packs that were written."""
    num_merged: int = 0
    """Smaller packs that went into them."""


def compact_ledger(
    backend: StorageBackend, ledger: str, *, min_loose: int = MIN_LOOSE, size: PackSize = PACK_SIZE
) -> Compacted:
    """Compact one set's ledger; nothing happens where fewer than `min_loose` entries lie in files of their own.

    Entries that are damaged stay where they are, for a repair. Safe to be killed, and to be run by several at once.

    Raises
    ------
    CorruptDataError
        If a pack that must be there is not.
    """
    names = deque((s, g) for s, found in loose_generations(backend, ledger).items() for g in found)
    num_entries = num_packs = num_merged = 0
    packs: Packs | None = None
    old: list[int] = []
    while len(names) >= max(min_loose, 1) or (num_packs and names):
        with exclusive(backend, ledger):
            first, packs = packs is None, Packs(backend, ledger, packs)
            old = packs.superseded if first else old
            _delete_leftovers(backend, ledger, names, packs)
            entries = _take(backend, ledger, names, size)
            if not entries:
                break
            merged = _to_merge(packs, sum(e.table.num_rows for e in entries), size) if not names else []
            _write(backend, ledger, packs, entries, merged, size)
            num_entries, num_packs, num_merged = num_entries + len(entries), num_packs + 1, num_merged + len(merged)
            keys = [key_of(ledger, number) for number in old for key_of in (pack_key, pack_copy_key)]
            backend.delete_all(keys)
            old = []
    return Compacted(num_entries, num_packs, num_merged)


def _delete_leftovers(backend: StorageBackend, ledger: str, names: deque[Name], packs: Packs) -> None:
    """Delete files of entries that are in a whole pack already: a compaction was killed before it did."""
    packed: dict[Name, int] = {}
    for name in names:
        found = packs.find(*name)
        if found is not None:
            packed[name] = found[0].number
    whole = {number for number in set(packed.values()) if not check_pack(backend, ledger, number)}
    backend.delete_all([entry_key(ledger, *name) for name, number in packed.items() if number in whole])
    rest = [name for name in names if name not in packed]
    names.clear()
    names.extend(rest)


def _take(backend: StorageBackend, ledger: str, names: deque[Name], size: PackSize) -> list[PackedEntry]:
    """Take names off the queue and read their entries, until they fill a pack."""
    entries: list[PackedEntry] = []
    num_rows, taken = 0, 0
    for entry in fetch_each(backend, list(names), lambda name: _read(backend, ledger, name)):
        taken += 1
        if entry is not None:
            entries.append(entry.packed())
            num_rows += entry.table.num_rows
        if num_rows >= size.max_rows:
            break
    for _ in range(taken):
        names.popleft()
    return entries


def _read(backend: StorageBackend, ledger: str, name: Name) -> LedgerEntry | None:
    what = entry_key(ledger, *name)
    try:
        entry = LedgerEntry.decode(backend.read(what), what=what)
    except (CorruptDataError, NotFoundError):  # a repair's to mend; or deleted meanwhile
        return None
    is_as_named = (entry.shard, entry.generation) == name and entry.ledger in ("", ledger)
    return entry if is_as_named else None


def _to_merge(packs: Packs, num_rows: int, size: PackSize) -> list[Pack]:
    """Return the packs that go into the next one of `num_rows` rows."""
    chosen: list[Pack] = []
    for pack in sorted(packs.by_number.values(), key=lambda p: p.index.num_rows):
        more = pack.index.num_rows
        if more > MERGE_FACTOR * num_rows or num_rows + more > size.max_rows:
            break
        chosen.append(pack)
        num_rows += more
    return chosen


def forget_history(backend: StorageBackend, ledger: str, shards: Iterable[int]) -> int:
    """Delete all generations of some shards but the newest: what an erased video left in the ledger goes for good.

    Packs that hold such entries are written again without them, and the old ones deleted at once. May be killed at any
    instant and run again.

    Returns
    -------
    int
        How many entries went.
    """
    wanted = set(shards)
    with exclusive(backend, ledger):
        packs = Packs(backend, ledger)
        newest = packs.newest()
        loose = loose_generations(backend, ledger)
        for shard in wanted & set(loose):
            newest[shard] = max(newest.get(shard, -1), loose[shard][-1])
        old = [(s, g) for s in sorted(wanted & set(loose)) for g in loose[s] if g < newest[s]]
        backend.delete_all([entry_key(ledger, *name) for name in old])
        stale = {(s, g) for s, g in packs.everything() if s in wanted and g < newest[s]}
        holders = {found[0].number: found[0] for name in stale if (found := packs.find(*name)) is not None}
        for pack in holders.values():
            _write(backend, ledger, packs, [], [pack], without=stale)
            packs = Packs(backend, ledger, packs)
        gone = [*packs.superseded, *holders] if stale else []
        backend.delete_all([key_of(ledger, n) for n in sorted(set(gone)) for key_of in (pack_key, pack_copy_key)])
    return len(old) + len(stale)


def _write(
    backend: StorageBackend,
    ledger: str,
    packs: Packs,
    entries: Sequence[PackedEntry],
    merged: Sequence[Pack],
    size: PackSize = PACK_SIZE,
    without: Collection[Name] = (),
) -> None:
    """Create the next pack and its copy, then delete the files of the entries."""
    whole = {
        (e.shard, e.generation): e.packed() for pack in merged for e in (unpacked(pack, k) for k in range(len(pack)))
    }
    whole |= {(e.shard, e.generation): e for e in entries}
    gone = {pack.number for pack in merged}
    number = packs.last + 1  # the last one is never deleted, so that no number comes again
    data = encode_pack(
        [whole[name] for name in sorted(whole) if name not in without],
        ledger=ledger,
        number=number,
        supersedes=packs.gone | gone,
        standing=set(packs.by_number) - gone,
        lines_per_group=size.lines_per_group,
    )
    try:
        backend.create(pack_key(ledger, number), data)
    except AlreadyExistsError:  # on an object store, a lease that ran out: another compaction goes on
        return
    backend.put(pack_copy_key(ledger, number), data)
    backend.delete_all([entry_key(ledger, e.shard, e.generation) for e in entries])
