"""Which entries a ledger has, and where each lies: in a file of its own, or in a pack.

Loose names are listed before packs, and a pack is whole before the files that it holds are deleted: so whatever is
compacted meanwhile is found in at least one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError
from pipeline.sets.ledger_pack import Glance, Pack, PackIndex
from pipeline.storage.backend import StorageBackend
from pipeline.storage.fetch import fetch_each
from pipeline.storage.schema import NUMBER, packs_key

_FILE = re.compile(rf"(?:\A|/){NUMBER}-{NUMBER}\.parquet\Z")
_PACK = re.compile(rf"(?:\A|/){NUMBER}\.parquet\Z")
GENERATIONS_AHEAD = 3
"""Generations follow one another; a repair may leave a gap of one, where a damaged one was."""


def loose_generations(backend: StorageBackend, ledger: str) -> dict[int, list[int]]:
    """Return the generations of every shard that lie in files of their own, ascending."""
    found: dict[int, list[int]] = {}
    for key, _ in backend.list(ledger, recursive=False):
        if match := _FILE.search(key):
            found.setdefault(int(match[1]), []).append(int(match[2]))
    return {shard: sorted(generations) for shard, generations in sorted(found.items())}


def entry_key(ledger: str, shard: int, generation: int) -> str:
    """Return the key of an entry in a file of its own."""
    return f"{ledger}/{shard}-{generation}.parquet"


def pack_numbers(backend: StorageBackend, ledger: str) -> list[int]:
    """Return the numbers of all packs that are there, ascending; of some perhaps only the copy is left."""
    return sorted({int(match[1]) for key, _ in backend.list(packs_key(ledger)) if (match := _PACK.search(key))})


class Packs:
    """The packs of a ledger that count, at one moment.

    Parameters
    ----------
    known : Packs, optional
        An earlier view of the same ledger: what it has read is not read again.

    Raises
    ------
    CorruptDataError
        If a pack that must be there is not, or neither it nor its copy can be read.
    """

    listed: list[int]
    """All that are there, or their copies."""

    def __init__(self, backend: StorageBackend, ledger: str, known: Packs | None = None) -> None:
        have: dict[int, Pack] = {} if known is None else known.by_number
        for attempt in (1, 2, 3):
            numbers = pack_numbers(backend, ledger)
            if known is not None and numbers == known.listed:  # packs never change: it is what was seen before
                self.__dict__.update(known.__dict__)
                return
            try:
                read = fetch_each(backend, numbers, lambda n: have.get(n) or Pack(backend, ledger, n))
                packs = {pack.number: pack for pack in read}
                break
            except NotFoundError:  # removed between listing and reading: its entries are in a newer one
                if attempt == 3:
                    raise
        self.listed = numbers
        superseded = {number for pack in packs.values() for number in pack.index.supersedes}
        if packs:
            missing = sorted(packs[max(packs)].index.standing - superseded - set(packs))
            if missing:
                raise CorruptDataError(
                    f"{packs_key(ledger)}: expected the pack {missing[0]} of ledger entries, found none; restore it "
                    "from a backup"
                )
        self.by_number: dict[int, Pack] = {number: pack for number, pack in packs.items() if number not in superseded}
        """Those that count."""
        self.superseded = sorted(set(packs) & superseded)
        """Those that are there and may be deleted."""
        self.last = max(packs, default=-1)
        self.gone = frozenset(superseded)
        self._set_up()

    def _set_up(self) -> None:
        packs = [self.by_number[number] for number in sorted(self.by_number)]
        columns = [(p.index.shard, p.index.generation, np.full(len(p), p.number), np.arange(len(p))) for p in packs]
        empty = (np.empty(0, np.int64),) * 4
        shard, generation, number, place = (np.concatenate(c) for c in zip(empty, *columns, strict=True))
        order = np.lexsort((number, generation, shard))
        self._shard, self._generation = shard[order], generation[order]
        self._number, self._place = number[order], place[order]

    def newest(self) -> dict[int, int]:
        """Return the highest generation of every shard."""
        return dict(self._newest)

    @cached_property
    def _newest(self) -> dict[int, int]:
        last = np.flatnonzero(np.diff(self._shard, append=-1))
        return dict(zip(self._shard[last].tolist(), self._generation[last].tolist(), strict=True))

    def newest_at_a_glance(self) -> Iterator[tuple[int, int, int, int, str, dict[str, int]]]:
        """Yield shard, generation and what the footer says (:data:`Glance`) of every shard's newest entry, by shard."""
        last = np.flatnonzero(np.diff(self._shard, append=-1))
        said: dict[int, list[Glance]] = {}
        columns = (self._shard, self._generation, self._number, self._place)
        for shard, generation, number, place in zip(*(column[last].tolist() for column in columns), strict=True):
            if number not in said:
                said[number] = list(self.by_number[number].index.glances())
            yield shard, generation, *said[number][place]

    def generations(self, shard: int) -> list[int]:
        """Return the generations of a shard, ascending."""
        return sorted(set(self._generation[self._of(shard)].tolist()))

    def everything(self) -> Iterator[tuple[int, int]]:
        """Yield (shard, generation) of every entry, in order."""
        yield from zip(self._shard.tolist(), self._generation.tolist(), strict=True)

    def find(self, shard: int, generation: int) -> tuple[Pack, int] | None:
        """Return where an entry lies: the pack, and its place in the index."""
        part = self._of(shard)
        for where in range(part.stop - 1, part.start - 1, -1):
            if self._generation[where] == generation:
                return self.by_number[int(self._number[where])], int(self._place[where])
        return None

    def index_of(self, shard: int, generation: int) -> tuple[PackIndex, int] | None:
        """Return what the footer says about an entry: the index, and its place there."""
        found = self.find(shard, generation)
        return None if found is None else (found[0].index, found[1])

    def _of(self, shard: int) -> slice:
        return slice(int(self._shard.searchsorted(shard)), int(self._shard.searchsorted(shard, "right")))


def list_generations(backend: StorageBackend, ledger: str) -> dict[int, tuple[int, ...]]:
    """Return the generations of every shard that has an entry, ascending."""
    found: dict[int, set[int]] = {s: set(g) for s, g in loose_generations(backend, ledger).items()}
    for shard, generation in Packs(backend, ledger).everything():
        found.setdefault(shard, set()).add(generation)
    return {shard: tuple(sorted(generations)) for shard, generations in sorted(found.items())}


def newest_generation(backend: StorageBackend, ledger: str, shard: int, packs: Packs, expected: int) -> int:
    """Return the highest generation of one shard, -1 where there is none, without listing those of others.

    Parameters
    ----------
    packs : Packs
        As they stand now; call under the ledger's lock.
    expected : int
        The highest one when the caller last looked, or -1.
    """
    packed = max(packs.generations(shard), default=-1)
    for generation in range(expected + GENERATIONS_AHEAD, max(expected - 1, packed, -1), -1):
        if backend.exists(entry_key(ledger, shard, generation)):
            return generation
    if packed >= expected:
        return packed
    return max(packed, *loose_generations(backend, ledger).get(shard, [-1]))  # a repair took the expected one away
