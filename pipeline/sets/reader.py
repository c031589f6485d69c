"""Reading one set at one snapshot: only rows whose bytes match the checksums in the pinned ledger come out.

The ledger entry that a handle pinned holds a crc32c for every row of every array, so whatever happens to the files
meanwhile is noticed row by row. An append rewrites a half-full shard: its old rows keep their bytes and their
checksums, so a pinned reader goes on. A retry changes rows: a pinned reader that has not read them yet gets
SnapshotChangedError for those rows and for no others.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.sets.ledger_names import list_generations
from pipeline.sets.mapped import ShardRows, WholeShard, open_shard, open_shard_file, read_whole_shards
from pipeline.sets.opened import OpenShard, Part
from pipeline.sets.set_files import ArraySpec, SetSpec, stored_layout
from pipeline.storage.backend import StorageBackend
from pipeline.storage.crc_runs import joined_crc32c
from pipeline.storage.guard import ForkGuard
from pipeline.storage.layout import ArrayLayout, split_by_shard
from pipeline.storage.schema import previous_key, shard_key

if TYPE_CHECKING:
    from pipeline.sets.gather import HostGather

MAX_OPEN_SHARDS = 16_384
"""Mappings kept (the kernel allows 65,530 a process)."""
MAX_CACHED_BYTES = 1 << 28
"""Bytes of fetched or decoded shards kept."""
SHARDS_AT_ONCE = 16
"""Whose small arrays are read together."""
MIN_RUN = 16
"""Neighbouring rows from which on one checksum over all of them costs less than one a row."""


class SetReader:
    """Reads rows of one set as one ledger knows them.

    Parameters
    ----------
    ledger : Ledger
        What to believe.
    hidden : ndarray of int64, optional
        Rows that read as if they had no values, whatever the ledger says: their videos were removed.
    """

    def __init__(
        self, backend: StorageBackend, spec: SetSpec, ledger: Ledger, hidden: np.ndarray | None = None
    ) -> None:
        self.spec = spec
        self.ledger = ledger
        self._backend = backend
        self.hidden = np.empty(0, np.int64) if hidden is None else hidden
        self._guard = ForkGuard()
        self._lock = threading.RLock()
        self._arrays = {array.name: array for array in spec.arrays}
        self._names = tuple(self._arrays)
        self._layouts: dict[str, ArrayLayout | None] = {}
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._cached_bytes = 0
        self._resident: tuple[np.ndarray, dict[str, np.ndarray]] | None = None
        self._gather: HostGather | None = None

    @property
    def is_mapped(self) -> bool:
        """Whether reading costs no fetching and no decoding."""
        return self._backend.is_local and all(self._layout(a) is not None for a in self.spec.arrays)

    def read(self, rows: np.ndarray, out: dict[str, np.ndarray]) -> None:
        """Copy rows into buffers.

        Parameters
        ----------
        rows : ndarray of shape (n,), int64
            Ascending.
        out : dict of ndarray
            ``values`` and ``valid`` (and ``geometry``), of n rows each. Rows without committed values become zeros
            and False.

        Raises
        ------
        CorruptDataError
            If stored bytes do not match their ledger entry.
        SnapshotChangedError
            If they belong to a later generation than this reader pinned.
        """
        self._guard.check()
        for shard, part in split_by_shard(rows, self.spec.shard_rows):
            local = rows[part] - shard * self.spec.shard_rows
            opened = self._shard(shard)
            self._copy(opened, local, {name: buffer[part] for name, buffer in out.items()})

    def views(self, start: int, stop: int) -> dict[str, np.ndarray] | None:
        """Return rows ``[start, stop)`` without copying, or None where that cannot be done.

        It can where the rows lie in one shard, all of them have values, and the shard is mapped or in memory.
        """
        self._guard.check()
        shard = start // self.spec.shard_rows
        if stop <= start or (stop - 1) // self.spec.shard_rows != shard:
            return None
        opened = self._shard(shard)
        first, last = start - shard * self.spec.shard_rows, stop - shard * self.spec.shard_rows
        if opened is None or last > len(opened.present) or not opened.present[first:last].all():
            return None
        self._check(opened, np.arange(first, last), self._names)
        views = {name: self._array(opened, name).view(first, last) for name in self._names}
        if any(view is None for view in views.values()):
            return None
        return {name: view for name, view in views.items() if view is not None}

    def locate(
        self,
        rows: np.ndarray,
        parts: Iterable[slice] | None = None,
        *,
        check: bool = True,
        out: dict[str, np.ndarray] | None = None,
    ) -> Iterator[tuple[slice | np.ndarray, ShardRows, np.ndarray, np.ndarray]]:
        """Yield, shard by shard, where the values of ascending rows lie.

        Parameters
        ----------
        parts : iterable of slice, optional
            Look for these of the rows alone, each part in one shard.
        check : bool
            Hold each row to its checksum. False: the caller does it before anybody sees a row.
        out : dict of ndarray, optional
            Arrays, with a place for each of `rows`, to copy the rows into on the way, as :meth:`read` does, and to
            keep: they are not read twice.

        Yields
        ------
        (places, values, local, checksums)
            ``rows[places]`` are the rows `local` of `values`, which must have these checksums. Rows without values
            are in none.
        """
        self._guard.check()
        parts = iter((part for _, part in split_by_shard(rows, self.spec.shard_rows)) if parts is None else parts)
        while some := [self._part_of(rows, part) for part in islice(parts, SHARDS_AT_ONCE)]:
            if out is not None:
                self._copy_parts(some, out)
            for part, opened, local in some:
                if opened is None:
                    continue
                places: slice | np.ndarray = part
                if not opened.all_present or local[-1] >= len(opened.present):
                    inside = np.flatnonzero(local < len(opened.present))
                    inside = inside[opened.present[local[inside]]]
                    places, local = part.start + inside, local[inside]
                if check:
                    self._check(opened, local, ("values",))
                yield places, self._array(opened, "values"), local, opened.entry.checksums("values")[local]

    def _part_of(self, rows: np.ndarray, part: slice) -> Part:
        shard = int(rows[part.start]) // self.spec.shard_rows
        return Part(part, self._shard(shard), rows[part] - shard * self.spec.shard_rows)

    def _copy_parts(self, parts: Sequence[Part], out: dict[str, np.ndarray]) -> None:
        """Copy rows of small arrays for who keeps what it gets.

        A shard that is wanted for the most part is read and checked as a whole. It is not opened: a map would hold on
        to these bytes when others take their place, this does not.
        """
        for name, buffer in out.items():
            array, whole = self._arrays[name], dict[int, WholeShard]()
            layout = self._layout(array)
            for number, (part, opened, local) in enumerate(parts):
                if opened is None or layout is None or layout.num_chunks > 1 or not self._backend.is_local:
                    continue
                is_full = opened.all_present and len(opened.present) == layout.shard_rows
                if is_full and name not in opened.arrays and 2 * len(local) >= layout.shard_rows:
                    key = shard_key(array.key, opened.entry.shard, layout.ndim)
                    wanted = None if len(local) == layout.shard_rows else local
                    whole[number] = WholeShard(key, opened.entry.checksums(name), wanted, buffer[part])
            if layout is not None and whole:
                is_read = read_whole_shards(self._backend, layout, list(whole.values()))
                for number in np.array(list(whole))[~is_read].tolist():
                    del whole[number]
            for number, (part, opened, local) in enumerate(parts):
                if number not in whole:
                    self._copy(opened, local, {name: buffer[part]})

    def host_gather(self, rows: np.ndarray) -> HostGather:
        """Return the gatherer of a selection, kept for its next epoch."""
        from pipeline.sets.gather import HostGather

        if self._gather is None or not np.array_equal(self._gather.rows, rows):
            self._gather = HostGather(self, rows)
        return self._gather

    def resident(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return rows in memory, fetched once for as long as this reader lives (or other rows are asked for)."""
        if self._resident is None or not np.array_equal(self._resident[0], rows):
            arrays = {a.name: np.empty((len(rows), *a.layout.row_shape), a.layout.dtype) for a in self.spec.arrays}
            self._resident = None
            self.read(rows, arrays)
            self.release(rows)
            self._resident = (rows, arrays)
        return self._resident[1]

    def release(self, rows: np.ndarray) -> None:
        """Let go of the shards of these rows: their mappings or fetched bytes."""
        with self._lock:
            for shard, _ in split_by_shard(rows, self.spec.shard_rows):
                opened = self._open.pop(shard, None)
                if opened is not None:
                    self._cached_bytes -= opened.num_bytes

    def check_all(self, shard: int) -> None:
        """Check every row of a shard against its entry; raises as :meth:`read` does."""
        opened = self._shard(shard)
        if opened is not None:
            self._check(opened, np.arange(len(opened.present)), self._names)

    def _copy(self, opened: OpenShard | None, local: np.ndarray, out: dict[str, np.ndarray]) -> None:
        if opened is None:
            for buffer in out.values():
                buffer[:] = 0
            return
        covered = len(opened.present)
        if opened.all_present and (local.size == 0 or local[-1] < covered):
            self._check(opened, local, out)
            for name, buffer in out.items():
                self._array(opened, name).gather(local, buffer)
            return
        good = np.zeros(len(local), bool)
        inside = local < covered
        good[inside] = opened.present[local[inside]]
        self._check(opened, local[good], out)
        places = np.flatnonzero(good)
        for name, buffer in out.items():
            buffer[~good] = 0
            for place in places.tolist():
                buffer[place] = self._array(opened, name).row(int(local[place]))

    def _layout(self, array: ArraySpec) -> ArrayLayout | None:
        if array.name not in self._layouts:
            self._layouts[array.name] = stored_layout(self._backend, self.spec, array)
        return self._layouts[array.name]

    def _shard(self, shard: int) -> OpenShard | None:
        with self._lock:
            opened = self._open.get(shard)
            if opened is not None:
                self._open.move_to_end(shard)
                return opened
            entry = self.ledger.entry(shard)
            if entry is None:
                return None
            opened = OpenShard(entry, self._hidden_in(entry))
            if not opened.all_present and not entry.num_valid.any():
                return None
            for array in () if self._backend.is_local else self.spec.arrays:
                opened.arrays[array.name] = self._open_array(array, opened)
            self._open[shard] = opened
            self._cached_bytes += opened.num_bytes
            while len(self._open) > 1 and (
                len(self._open) * len(self.spec.arrays) > MAX_OPEN_SHARDS or self._cached_bytes > MAX_CACHED_BYTES
            ):
                _, dropped = self._open.popitem(last=False)
                self._cached_bytes -= dropped.num_bytes
            return opened

    def _array(self, opened: OpenShard, name: str) -> ShardRows:
        found = opened.arrays.get(name)
        if found is None:
            with self._lock:
                found = opened.arrays.get(name) or self._open_array(self._arrays[name], opened)
                if name not in opened.arrays and self._open.get(opened.entry.shard) is opened:
                    self._cached_bytes += found.num_bytes
                opened.arrays[name] = found
        return found

    def _hidden_in(self, entry: LedgerEntry) -> np.ndarray:
        """Return which of an entry's rows are hidden, counted from its first."""
        if not len(self.hidden):
            return self.hidden
        inside = (self.hidden >= entry.row_start) & (self.hidden < entry.row_stop)
        return self.hidden[inside] - entry.row_start

    def _open_array(self, array: ArraySpec, opened: OpenShard) -> ShardRows:
        entry = opened.entry
        needed = len(opened.present) if opened.all_present else int(np.flatnonzero(entry.num_valid > 0)[-1]) + 1
        problem: Exception
        try:
            rows = open_shard(self._backend, array.key, self._layout(array), entry.shard, array.layout)
            if rows.num_rows >= needed:
                return rows
            problem = CorruptDataError(
                f"{array.key} shard {entry.shard}: expected {needed} rows, found {rows.num_rows}; the shard is torn"
            )
        except (CorruptDataError, NotFoundError) as err:
            problem = err
        previous = self._previous(array, entry)
        if previous is not None and previous.num_rows >= needed:
            return previous
        raise self._refusal(entry, f"{problem}") from problem

    def _previous(self, array: ArraySpec, entry: LedgerEntry) -> ShardRows | None:
        """Open what a writer set aside before it replaced the shard, if it did and has not committed since."""
        try:
            key = previous_key(self.spec.ledger, array.name, entry.shard, entry.generation)
            return open_shard_file(self._backend, key, array.layout)
        except (NotFoundError, CorruptDataError):
            return None

    def _check(self, opened: OpenShard, local: np.ndarray, names: Iterable[str]) -> None:
        """Hold rows of some arrays that are read for the first time to the checksums of the ledger entry."""
        for name in names:
            if name in opened.all_checked:
                continue
            with self._lock:
                if name not in opened.checked:
                    opened.checked[name] = ~opened.present
                if opened.checked[name][local].all():
                    continue
                todo = local[~opened.checked[name][local]]
                bad = self._mismatching(opened, name, self._array(opened, name), todo)
                if bad.size:
                    array = self._arrays[name]
                    previous = self._previous(array, opened.entry)
                    if previous is None or self._mismatching(opened, name, previous, todo).size:
                        first = ", ".join(map(str, (opened.entry.row_start + bad[:5]).tolist()))
                        raise self._refusal(
                            opened.entry,
                            f"{array.key}: row(s) {first} of shard {opened.entry.shard} do not match their checksum",
                        )
                    opened.arrays[name] = previous
                opened.checked[name][todo] = True
                if opened.checked[name].all():
                    opened.all_checked.add(name)

    @staticmethod
    def _mismatching(opened: OpenShard, name: str, rows: ShardRows, local: np.ndarray) -> np.ndarray:
        if local.size and local[-1] >= rows.num_rows:
            return local[local >= rows.num_rows]
        if len(local) >= MIN_RUN and local[-1] - local[0] == len(local) - 1:
            run = rows.run_checksum(int(local[0]), int(local[-1]) + 1)
            if run is not None and run == joined_crc32c(opened.entry.checksums(name)[local], rows.row_bytes):
                return local[:0]
        return local[rows.checksums(local) != opened.entry.checksums(name)[local]]

    def _refusal(self, entry: LedgerEntry, found: str) -> Exception:
        binding, keys = self.ledger.binding, entry.video_keys
        if (
            binding is not None
            and keys is not None
            and binding.is_replaced_since(keys, entry.row_start, entry.row_stop)
        ):
            return SnapshotChangedError(
                f"{self.spec.label}: files of shard {entry.shard} were catalogued again since this handle was opened, "
                "and other features share the geometry of their rows; open the dataset again (`ds.refresh()`)"
            )
        newest = list_generations(self._backend, self.spec.ledger).get(entry.shard, (-1,))[-1]
        if newest != entry.generation:
            return SnapshotChangedError(
                f"{self.spec.label}: this handle pinned generation {entry.generation} of shard {entry.shard}, which "
                f"has been replaced by generation {newest}; open the dataset again (`ds.refresh()`)"
            )
        return CorruptDataError(
            f"{self.spec.label}: {found}; nothing was returned. Run `scale verify --repair` and then the stage again"
        )
