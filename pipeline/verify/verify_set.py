"""Checking one feature or embedding set, shard by shard, against its ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError, UnsafeNameError
from pipeline.sets.binding import NOBODY
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import LedgerEntry, RowStatus, make_table
from pipeline.sets.ledger_names import Packs, entry_key, list_generations, newest_generation
from pipeline.sets.mapped import ShardRows, open_shard, open_shard_file
from pipeline.sets.set_files import ArraySpec, SetSpec
from pipeline.storage.claims import Claims
from pipeline.storage.layout import ArrayLayout
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import PENDING, packs_key, previous_key, shard_key, shard_of
from pipeline.storage.shardfile import encode_shard, row_checksums
from pipeline.store.video_rows import VideoRows
from pipeline.verify.findings import Findings
from pipeline.verify.verify_arrays import MAX_TRIED, bad_rows, check_array
from pipeline.verify.verify_packs import check_packs


class SetCheck:
    """The check of one set; see :class:`pipeline.verify.verify_dataset.DatasetCheck`."""

    def __init__(self, findings: Findings, spec: SetSpec, *, num_videos: int | None, binding: VideoRows | None) -> None:
        self._findings = findings
        self._backend = findings.backend
        self._spec = spec
        self._num_videos = num_videos
        self._binding = binding
        self._repair = findings.repair
        self._found = findings.add
        self.num_rows = self.num_bytes = 0
        self._layouts: dict[str, ArrayLayout | None] = {}

    def run(self) -> Iterator[None]:
        """Check the arrays' metadata, then every shard; yields after each."""
        try:
            self._findings.problems.extend(check_packs(self._backend, self._spec.ledger, repair=self._repair))
            generations = list_generations(self._backend, self._spec.ledger)
            self._packs = Packs(self._backend, self._spec.ledger)
        except CorruptDataError as err:
            self._found("damaged ledger", packs_key(self._spec.ledger), str(err))
            return
        tried: list[LedgerEntry] = []
        needed = 0
        for shard, all_ in generations.items():
            entry = self._entry(shard, all_[-1])
            if entry is not None:
                needed = max(needed, entry.row_stop)
                tried += [entry] if entry.num_valid.any() and len(tried) < MAX_TRIED else []
        for array in self._spec.arrays:
            layout = check_array(self._findings, self._spec, array, tried, needed, self._binding)
            self._layouts[array.name] = layout
        self._aside = {key for key, _ in self._backend.list(f"{self._spec.ledger}/_previous", recursive=False)}
        for shard, seen in generations.items():
            self._check_shard(shard, seen)
            yield
        self._check_orphans()

    def _check_shard(self, shard: int, seen: Sequence[int]) -> None:
        ledger = self._spec.ledger
        with exclusive(self._backend, ledger):  # nobody may commit between looking and repairing
            self._packs = Packs(self._backend, ledger, self._packs)
            newest = newest_generation(self._backend, ledger, shard, self._packs, expected=seen[-1])
            if newest < 0:
                return
            generations = [g for g in sorted({*seen, newest}) if g == newest or self._is_there(shard, g)]
            entry = self._entry(shard, newest)
            if entry is None:
                self._replace_entry(shard, generations)
                return
            self._check_entry(entry)
            for older in generations[:-1]:  # history; checked so that nothing in the store is rotten
                if self._entry(shard, older) is None:
                    key = entry_key(self._spec.ledger, shard, older)
                    fixed = self._findings.drop(key) if self._repair else ""
                    self._found("damaged ledger", key, "history that fails its seal", fixed)
            self._sweep_previous(entry)

    def _is_there(self, shard: int, generation: int) -> bool:
        is_packed = self._packs.find(shard, generation) is not None
        return is_packed or self._backend.exists(entry_key(self._spec.ledger, shard, generation))

    def _entry(self, shard: int, generation: int) -> LedgerEntry | None:
        """Return an entry, None where it is damaged. A storage that does not answer is no reason to drop anything."""
        try:
            names = {shard: generation}
            return Ledger(self._backend, self._spec.ledger, names, binding=None, packs=self._packs).entry(shard)
        except (CorruptDataError, SnapshotChangedError, UnsafeNameError):
            return None

    def _check_entry(self, entry: LedgerEntry) -> None:
        self.num_rows += entry.row_stop - entry.row_start
        where = entry_key(self._spec.ledger, entry.shard, entry.generation)
        if self._binding is not None and not self._binding.covers(entry.row_stop):
            what = f"covers rows up to {entry.row_stop}, the catalogue has {self._num_videos}"
            self._found("outside catalogue", where, what)
            return  # whose rows these are is not known: nothing of them is touched
        bad = np.zeros(len(entry.num_valid), bool)
        keys = self._keys(entry.row_start, entry.row_stop)
        has_owner = np.ones(len(bad), bool) if keys is None else keys != NOBODY
        former = self._former(entry)  # of a file that was catalogued again: counts no more, the next run makes it anew
        present = np.flatnonzero((entry.num_valid > 0) & has_owner & ~former)  # a removed row: checked as an erasure
        bad |= self._not_ours(entry) & ~former
        if bad.any():
            others = entry.row_start + np.flatnonzero(bad)
            what = f"row(s) {', '.join(map(str, others[:5].tolist()))} hold the results of other videos"
            self._found("other videos", where, what, self._dropped(), rows=len(others))
        opened: dict[str, ShardRows] = {}
        for array in self._spec.arrays if present.size else ():
            rows = self._good_array(array, entry, present, bad)
            if rows is not None:
                opened[array.name] = rows
        if len(opened) == len(self._spec.arrays):
            bad |= self._check_values(entry, opened, present[~bad[present]])
        if bad.any():
            if self._repair:
                self._drop_rows(entry, bad, opened)
            return
        for name in ("values", "valid") if present.size else ():
            if not self._check_digest(entry, self._spec.array(name), opened, former):
                break

    def _good_array(
        self, array: ArraySpec, entry: LedgerEntry, present: np.ndarray, bad: np.ndarray
    ) -> ShardRows | None:
        """Open an array's shard and mark the rows whose bytes do not match the entry."""
        where = f"{array.key} shard {entry.shard}"
        rows: ShardRows | None = None
        kind, what = "wrong checksum", ""
        try:
            rows = open_shard(self._backend, array.key, self._layouts[array.name], entry.shard, array.layout)
            mismatching = bad_rows(rows, entry, array.name, present)
            if rows.num_rows <= present[-1]:
                kind = "torn shard"
        except NotFoundError:
            kind, what, mismatching = "missing shard", "expected a shard, found none", present
        except (CorruptDataError, UnsafeNameError) as err:
            kind, what, mismatching = "torn shard", str(err), present
        layout = self._layouts[array.name]
        if layout is not None:
            self.num_bytes += layout.row_bytes * len(present)
        if not mismatching.size:
            return rows
        previous = self._restore_previous(array, entry, present)
        if previous is not None:
            fixed = "put back" if self._repair else ""
            self._found("interrupted write", where, "a retry was killed; the committed bytes were set aside", fixed)
            return previous
        bad[mismatching] = True
        first = ", ".join(map(str, (entry.row_start + mismatching[:5]).tolist()))
        what = what or f"row(s) {first}{' ...' if len(mismatching) > 5 else ''} do not match their checksum"
        fixed = "rows dropped; the next run redoes them" if self._repair else ""
        self._found(kind, where, what, fixed, rows=len(mismatching))
        return rows

    def _restore_previous(self, array: ArraySpec, entry: LedgerEntry, present: np.ndarray) -> ShardRows | None:
        key = previous_key(self._spec.ledger, array.name, entry.shard, entry.generation)
        try:
            rows = open_shard_file(self._backend, key, self._layouts[array.name] or array.layout)
        except (NotFoundError, CorruptDataError):
            return None
        if bad_rows(rows, entry, array.name, present).size:
            return None
        if self._repair:
            self._findings.put(shard_key(array.key, entry.shard, array.layout.ndim), self._backend.read(key))
        return rows

    def _check_values(self, entry: LedgerEntry, opened: dict[str, ShardRows], local: np.ndarray) -> np.ndarray:
        """Return the rows that hold what no writer would have let through."""
        bad = np.zeros(len(entry.num_valid), bool)
        for k in local.tolist():
            valid = opened["valid"].row(k)
            if int(valid.sum()) != int(entry.num_valid[k]):
                bad[k] = True
                what = (
                    f"row {entry.row_start + k}: {int(valid.sum())} valid crops, the ledger says {entry.num_valid[k]}"
                )
                self._found("wrong count", self._spec.group, what, self._dropped(), rows=1)
            elif not np.isfinite(opened["values"].row(k)).all():
                bad[k] = True
                what = f"row {entry.row_start + k} holds NaN or infinity"
                self._found("non-finite", self._spec.group, what, self._dropped(), rows=1)
        return bad

    def _dropped(self) -> str:
        return "dropped; the next run redoes it" if self._repair else ""

    def _not_ours(self, entry: LedgerEntry) -> np.ndarray:
        """Return which rows of an entry are not of what the catalogue has in them now, bool."""
        keys = self._keys(entry.row_start, entry.row_stop)
        if keys is None or entry.video_keys is None:
            return np.zeros(len(entry.num_valid), bool)
        return (entry.video_keys != keys) & (keys != NOBODY)

    def _former(self, entry: LedgerEntry) -> np.ndarray:
        """Return which of them are of an earlier state of the same video, bool."""
        others = self._not_ours(entry)
        if self._binding is None or entry.video_keys is None or not others.any():
            return np.zeros(len(others), bool)
        return others & self._binding.former(entry.video_keys, entry.row_start, entry.row_stop)

    def _check_digest(
        self, entry: LedgerEntry, array: ArraySpec, opened: dict[str, ShardRows], former: np.ndarray
    ) -> bool:
        """All rows are good; is the file besides them what was committed? If not, write it again from the rows.

        Returns
        -------
        bool
            Whether the entry is still the newest.
        """
        layout = self._layouts[array.name]
        expected = entry.digests.get(array.name)
        if layout is None or expected is None:
            return True
        key = shard_key(array.key, entry.shard, layout.ndim)
        try:
            if hashlib.sha256(self._backend.read(key)).hexdigest() == expected:
                return True
        except NotFoundError:
            pass
        fixed = ""
        if self._repair and former.any():  # nobody can say what their bytes were
            self._drop_rows(entry, former, opened)
            fixed = "written again without the rows of replaced files"
        elif self._repair:
            rows = np.zeros((len(entry.num_valid), *layout.row_shape), layout.dtype)
            for k in np.flatnonzero(entry.num_valid > 0).tolist():
                rows[k] = opened[array.name].row(k)
            # Chunks were packed tightly before they were aligned: a file of either kind is mended as what it was.
            ways = [encode_shard(rows, layout, step) for step in (layout.chunk_step, layout.chunk_bytes)]
            data = next((d for d in ways if hashlib.sha256(d).hexdigest() == expected), ways[0])
            fixed = f"written again from its rows{self._findings.put(key, data)}"
        what = "rows are good, but the file holds other bytes too: a killed append, or damage between the rows"
        self._found("interrupted write", key, what, fixed)
        return not (self._repair and former.any())

    def _drop_rows(self, entry: LedgerEntry, bad: np.ndarray, opened: dict[str, ShardRows]) -> None:
        """Commit a generation in which the bad rows are pending again, and write the good ones out."""
        bad = bad | self._not_ours(entry)  # the new entry names the present videos: nothing of others goes into it
        statuses = _statuses(entry)
        for k in np.flatnonzero(bad).tolist():
            statuses[k] = RowStatus(entry.row_start + k, PENDING, "dropped by verify --repair", attempts=0)
        self._commit(entry, statuses, opened, np.flatnonzero((entry.num_valid > 0) & ~bad))

    def _replace_entry(self, shard: int, generations: Sequence[int]) -> None:
        """Fall back from a damaged entry to what an older one still vouches for, and ask for the rest."""
        where = entry_key(self._spec.ledger, shard, generations[-1])
        entries = [self._entry(shard, g) for g in reversed(generations[:-1])]
        base = next((e for e in entries if e is not None), None)
        start = shard * self._spec.shard_rows
        stop = min(start + self._spec.shard_rows, self._num_videos or start)
        lost = stop - start - (0 if base is None else int((base.num_valid > 0).sum()))
        if self._repair and stop > start:
            if base is None:
                statuses = [
                    RowStatus(r, PENDING, "its ledger entry was damaged", attempts=0) for r in range(start, stop)
                ]
                base = LedgerEntry(
                    shard,
                    generations[-1],
                    start,
                    stop,
                    make_table(statuses, {}, self._keys(start, stop)),
                    fingerprint_id="",
                    reason="repair",
                )
                self._commit(base, statuses, {}, np.empty(0, np.int64))
            else:
                present = np.flatnonzero(base.num_valid > 0)
                bad = self._not_ours(base)
                opened = {}
                for array in self._spec.arrays:
                    try:
                        rows = open_shard(self._backend, array.key, self._layouts[array.name], shard, array.layout)
                        bad[bad_rows(rows, base, array.name, present)] = True
                        opened[array.name] = rows
                    except (NotFoundError, CorruptDataError):
                        bad[present] = True
                statuses = _statuses(base)
                for k in np.flatnonzero(bad).tolist():
                    statuses[k] = RowStatus(base.row_start + k, PENDING, "its ledger entry was damaged", attempts=0)
                again = replace(base, generation=generations[-1])
                self._commit(again, statuses, opened, np.flatnonzero((base.num_valid > 0) & ~bad))
            self._findings.drop(where)
        elif self._repair and self._num_videos is not None:  # no video of the catalogue lies in that shard
            fixed = self._findings.drop(where)
            self._found("damaged ledger", where, "an entry that fails its seal, of a shard without videos", fixed)
            return
        fixed = "replaced; the next run redoes the rows" if self._repair else ""
        self._found("damaged ledger", where, "the entry fails its seal", fixed, rows=max(lost, 0))

    def _commit(
        self, entry: LedgerEntry, statuses: list[RowStatus], opened: dict[str, ShardRows], keep: np.ndarray
    ) -> None:
        """Write the kept rows (zeros elsewhere) and the next generation's entry. Geometry is shared and left alone."""
        checksums: dict[str, np.ndarray] = {}
        digests = {}
        for array in self._spec.arrays:
            checksums[array.name] = entry.checksums(array.name).copy()
            layout = self._layouts[array.name]
            if array.name == "geometry" or layout is None:
                continue
            rows = np.zeros((len(statuses), *layout.row_shape), layout.dtype)
            for k in keep.tolist():
                rows[k] = opened[array.name].row(k)
            data = encode_shard(rows, layout)
            self._findings.put(shard_key(array.key, entry.shard, layout.ndim), data)
            digests[array.name] = hashlib.sha256(data).hexdigest()
            checksums[array.name] = row_checksums(rows)
        keys = self._keys(entry.row_start, entry.row_stop)
        after = replace(
            entry, generation=entry.generation + 1, table=make_table(statuses, checksums, keys), digests=digests,
            reason="repair", ledger=self._spec.ledger,
        )  # fmt: skip
        self._backend.create(entry_key(self._spec.ledger, after.shard, after.generation), after.encode())
        self._sweep_previous(after)

    def _keys(self, start: int, stop: int) -> np.ndarray | None:
        """Return the keys of the catalogue's videos in these rows."""
        return self._binding.keys(start, stop) if self._binding is not None and self._binding.covers(stop) else None

    def _sweep_previous(self, entry: LedgerEntry) -> None:
        """Remove what was set aside for generations that have been replaced."""
        for array in self._spec.arrays:
            for key in self._aside:
                name, _, rest = key.rpartition("/")[2].partition("-")
                shard, _, generation = rest.partition("-")
                if (name, shard) == (array.name, str(entry.shard)) and generation.isdigit() and self._repair:
                    self._findings.drop(key)

    def _check_orphans(self) -> None:
        """Shards that no entry knows: a writer was killed before its commit. Garbage that the next run overwrites."""
        known = set(list_generations(self._backend, self._spec.ledger))
        claimed = set(Claims(self._backend, f"{self._spec.ledger}/_claims").holders())
        for array in self._spec.arrays:
            if array.name == "geometry":
                continue
            for key, _ in self._backend.list(array.key, recursive=False):
                shard = shard_of(key)
                if shard is None or shard in known or str(shard) in claimed:
                    continue
                fixed = ""
                if self._repair:
                    with exclusive(self._backend, self._spec.ledger):
                        self._packs = Packs(self._backend, self._spec.ledger, self._packs)
                        if newest_generation(self._backend, self._spec.ledger, shard, self._packs, expected=-1) < 0:
                            fixed = self._findings.drop(key)
                self._found("orphan", key, "a shard without a ledger entry: its writer was killed", fixed)


def _statuses(entry: LedgerEntry) -> list[RowStatus]:
    return [
        RowStatus(r["row"], r["status"], r["error"], r["attempts"], r["seconds"], r["num_valid"])
        for r in entry.table.to_pylist()
    ]
