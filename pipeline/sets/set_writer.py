"""Writing a set, shard by shard: what is missing, who does it, and the commit.

The order of a commit, each step durable before the next, under the set's lock:

1. the committed rows of the shard are read and held to their checksums; new rows are put beside them;
2. where rows that have values change (a retry), the old shard is set aside: a crash before step 4 then loses nothing;
3. each array's shard is replaced as a whole;
4. the ledger entry of the next generation is created exclusively. Only now does anybody believe the new bytes;
5. what was set aside is removed.
"""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptDataError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    ShapeMismatchError,
    WrongVideoError,
)
from pipeline.sets.arrays import write_array_metadata
from pipeline.sets.binding import NOBODY, Binding
from pipeline.sets.compaction import COMPACT_AFTER, compact_ledger
from pipeline.sets.geometry import commit_geometry
from pipeline.sets.ledger import EntrySummary, Ledger
from pipeline.sets.ledger_entry import UNDONE, LedgerEntry, RowStatus, make_table
from pipeline.sets.ledger_names import Packs, entry_key, newest_generation
from pipeline.sets.reader import SetReader
from pipeline.sets.set_files import SetSpec, stored_layout
from pipeline.sets.shard_task import ShardTask
from pipeline.status import VideoStatus
from pipeline.storage.backend import StorageBackend
from pipeline.storage.claims import Claim, Claims
from pipeline.storage.guard import ForkGuard
from pipeline.storage.layout import ArrayLayout, num_shards, shard_range
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import PENDING, previous_key, shard_key
from pipeline.storage.shardfile import encode_shard, row_checksums

_STATUSES = frozenset(VideoStatus)


class SetWriter:
    """What both writers share; see :mod:`pipeline.sets.writer`.

    Attributes
    ----------
    spec : SetSpec
    fingerprint_id : str
        Of the set.
    differing : mapping
        Accepted differences between the set's fingerprint and this writer's.
    """

    def __init__(
        self,
        backend: StorageBackend,
        spec: SetSpec,
        *,
        num_rows: int,
        binding: Binding,
        fingerprint_id: str,
        differing: Mapping[str, Any],
    ) -> None:
        self.spec = spec
        self.num_rows = num_rows
        self.fingerprint_id = fingerprint_id
        self.differing = dict(differing)
        self.compact_after = COMPACT_AFTER
        """So many entries in files of their own, and the ledger is compacted."""
        self._backend = backend
        self._guard = ForkGuard()
        self._binding = binding
        self._ledger = Ledger(backend, spec.ledger, binding=binding)
        self._claims = Claims(backend, f"{spec.ledger}/_claims")
        self._layouts: dict[str, ArrayLayout] = {}
        for array in spec.arrays:
            layout = stored_layout(backend, spec, array)
            if layout is None:
                raise ConflictError(
                    f"{spec.label}: expected uncompressed, checked chunks, found an array {array.key} that another "
                    "program wrote; it can be read, but not appended to. Use another name for new features"
                )
            self._layouts[array.name] = layout

    def todo(self, shards: Iterable[int] | None = None, retry: Collection[str] = ()) -> tuple[ShardTask, ...]:
        """Return what is missing, as it stands now.

        Parameters
        ----------
        shards : iterable of int, optional
            Only these.
        retry : collection of str
            Statuses whose rows are to be done again.

        Returns
        -------
        tuple of ShardTask
            New shards, rows appended to a half-full shard, rows a repair dropped, rows to retry.

        Raises
        ------
        InvalidInputError
            If `retry` names an unknown status.
        """
        self._guard.check()
        again = {str(s) for s in retry}
        if unknown := again - _STATUSES:
            known, found = (", ".join(sorted(names)) for names in (_STATUSES, unknown))
            raise InvalidInputError(f"expected statuses of {known}, found {found}")
        self._ledger = self._ledger.refreshed()
        wanted = range(num_shards(self.num_rows, self.spec.shard_rows)) if shards is None else sorted(set(shards))
        done = {s.shard for s in self._ledger.packed() if self._is_done(s, again)} if shards is None else set()
        left = [shard for shard in wanted if shard not in done]
        self._ledger.fetch(left)
        tasks = (self._task(shard, again) for shard in left)
        return tuple(task for task in tasks if task is not None)

    def _is_done(self, summary: EntrySummary, again: set[str]) -> bool:
        stop = min((summary.shard + 1) * self.spec.shard_rows, self.num_rows)
        return summary.row_stop >= stop and UNDONE.isdisjoint(summary.counts) and again.isdisjoint(summary.counts)

    def _task(self, shard: int, again: set[str]) -> ShardTask | None:
        start, stop = shard_range(shard, self.spec.shard_rows, self.num_rows)
        generation, removed = self._ledger.generations.get(shard, -1) + 1, self._binding.removed_rows
        try:
            summary = self._ledger.summary(shard)
            if summary is not None and self._is_done(summary, again):
                return None
            entry = self._ledger.entry(shard)
        except WrongVideoError:  # perhaps the catalogue is the damaged one: nothing is written over
            raise
        except CorruptDataError:  # nothing in this shard can be believed any more: do it again
            return ShardTask(shard, np.setdiff1d(np.arange(start, stop), removed), start, stop, generation, "retry")
        if entry is None:
            everything = np.setdiff1d(np.arange(start, stop), removed)
            return ShardTask(shard, everything, start, stop, generation, "new") if everything.size else None
        appended = np.arange(entry.row_stop, stop)
        redo = entry.row_start + np.flatnonzero([s in UNDONE or s in again for s in entry.statuses])
        rows = np.setdiff1d(np.concatenate([redo, appended]), removed).astype(np.int64)
        if not rows.size:
            return None
        reason = "retry" if redo.size else "appended"
        return ShardTask(shard, rows, start, max(stop, entry.row_stop), generation, reason)

    def wipe(self, shard: int) -> LedgerEntry | None:
        """Write a shard again without the rows whose videos were removed; None where it holds nothing of them.

        The other rows keep their bytes, so that readers of the entry before go on. Geometry goes with the row.
        """
        self._guard.check()
        self._ledger = self._ledger.refreshed()
        entry = self._ledger.entry(shard)
        if entry is None or not self.holds_removed(entry):
            return None
        task = ShardTask(
            shard, np.empty(0, np.int64), entry.row_start, entry.row_stop, entry.generation + 1, VideoStatus.REMOVED
        )
        new = {a.name: np.zeros((0, *a.layout.row_shape), a.layout.dtype) for a in self.spec.arrays}
        return self._commit(task, new, [], device="", seconds=entry.seconds, versions=entry.versions)

    def holds_removed(self, entry: LedgerEntry) -> bool:
        """Whether an entry still says anything of a row whose video was removed."""
        removed = self._removed_places(entry.row_start, entry.row_stop)
        keys = entry.video_keys
        return any(entry.statuses[k] != VideoStatus.REMOVED for k in removed.tolist()) or (
            keys is not None and bool((keys[removed] != NOBODY).any())
        )

    def _removed_places(self, start: int, stop: int) -> np.ndarray:
        """Return the places in ``[start, stop)`` of rows whose videos were removed."""
        removed = self._binding.removed_rows
        return removed[(removed >= start) & (removed < stop)] - start

    def claim(self, task: ShardTask, ttl_s: float = 300.0) -> Claim | None:
        """Claim a shard for this worker.

        Returns
        -------
        Claim or None
            A context manager that renews itself until it exits; None when another live worker holds the shard, or has
            finished it meanwhile.
        """
        self._guard.check()
        claim = self._claims.claim(str(task.shard), ttl_s)
        if claim is None:
            return None
        try:
            is_done = self._newest(task) >= task.generation
        except BaseException:
            claim.release()
            raise
        if is_done:
            claim.release()
            return None
        return claim

    def _commit(
        self,
        task: ShardTask,
        new: dict[str, np.ndarray],
        rows: Sequence[RowStatus],
        *,
        device: str,
        seconds: float,
        versions: Mapping[str, str],
        reason: str | None = None,
    ) -> LedgerEntry:
        """Commit checked arrays of ``len(task.rows)`` rows each."""
        spec = self.spec
        with exclusive(self._backend, spec.ledger):
            newest = self._newest(task)
            if newest >= task.generation:
                raise AlreadyExistsError(
                    f"{spec.label}: expected to write generation {task.generation} of shard {task.shard}, found "
                    f"generation {newest}; another worker was first"
                )
            keys = self._binding.keys(task.row_start, task.row_stop)
            base = self._base(task, newest)
            merged, statuses = self._merge(task, base, new, rows)
            self._grow(task.row_stop)
            if base is not None and (base.num_valid[task.rows[task.rows < base.row_stop] - base.row_start] > 0).any():
                self._set_aside(base)
            if "geometry" in merged:
                merged["geometry"] = commit_geometry(
                    self._backend, spec, self._layouts["geometry"], task, merged["geometry"],
                    [s.num_valid > 0 for s in statuses], self._removed_places(task.row_start, task.row_stop),
                    self._binding,
                )  # fmt: skip
            digests = {}
            for name in ("values", "valid"):
                data = encode_shard(merged[name], self._layouts[name])
                self._backend.put(shard_key(spec.array(name).key, task.shard, self._layouts[name].ndim), data)
                digests[name] = hashlib.sha256(data).hexdigest()
            entry = LedgerEntry(
                shard=task.shard,
                generation=task.generation,
                row_start=task.row_start,
                row_stop=task.row_stop,
                table=make_table(statuses, {name: row_checksums(array) for name, array in merged.items()}, keys),
                fingerprint_id=self.fingerprint_id,
                reason=reason or task.reason,
                digests=digests,
                device=device,
                seconds=seconds,
                versions=dict(versions),
                differing={field: list(pair) for field, pair in self.differing.items()},
                written_at=datetime.now(UTC).isoformat(timespec="seconds"),
                written_by=f"{socket.gethostname()}:{os.getpid()}",
                ledger=spec.ledger,
                videos=self._binding.digest(task.row_start, task.row_stop),
            )
            self._backend.create(entry_key(spec.ledger, task.shard, task.generation), entry.encode())
            if base is not None:
                for name in ("values", "valid"):
                    self._backend.delete(previous_key(spec.ledger, name, base.shard, base.generation))
        self._ledger.remember(entry)
        if self._ledger.num_loose >= self.compact_after:
            with suppress(
                PipelineError
            ):  # the commit stands; the next one, or `scale compact`, tries again and says why
                compact_ledger(self._backend, spec.ledger, min_loose=self.compact_after // 2)
            self._ledger = self._ledger.refreshed()
        return entry

    def _newest(self, task: ShardTask) -> int:
        """Return the newest generation of the task's shard, as it stands now; other shards are not looked at."""
        self._ledger.packs = Packs(self._backend, self.spec.ledger, self._ledger.packs)
        return newest_generation(
            self._backend, self.spec.ledger, task.shard, self._ledger.packs, expected=task.generation - 1
        )

    def _base(self, task: ShardTask, newest: int) -> LedgerEntry | None:
        """Return the entry that this commit builds on."""
        if newest < 0:
            return None
        try:
            pinned = Ledger(
                self._backend, self.spec.ledger, {task.shard: newest}, binding=self._binding, packs=self._ledger.packs
            )
            return pinned.entry(task.shard)
        except WrongVideoError:
            raise
        except CorruptDataError:
            if len(task.rows) == task.row_stop - task.row_start:  # a damaged entry, and everything is done again
                return None
            raise

    def _merge(
        self, task: ShardTask, base: LedgerEntry | None, new: dict[str, np.ndarray], rows: Sequence[RowStatus]
    ) -> tuple[dict[str, np.ndarray], list[RowStatus]]:
        """Put the new rows beside the committed ones."""
        n = task.row_stop - task.row_start
        merged = {a.name: np.zeros((n, *a.layout.row_shape), a.layout.dtype) for a in self.spec.arrays}
        statuses: list[RowStatus | None] = [None] * n
        local = task.rows - task.row_start
        if base is not None:
            kept = np.setdiff1d(
                np.arange(base.row_start, base.row_stop), np.concatenate([task.rows, self._binding.removed_rows])
            )
            ledger = Ledger(self._backend, self.spec.ledger, {}, binding=self._binding)
            reader = SetReader(self._backend, self.spec, ledger)
            reader.ledger.remember(base)
            old = {name: np.empty((len(kept), *array.shape[1:]), array.dtype) for name, array in merged.items()}
            reader.read(kept, old)
            for name, array in merged.items():
                array[kept - task.row_start] = old[name]
            lines = base.table.to_pylist()
            for row in kept.tolist():
                line = lines[row - base.row_start]
                statuses[row - task.row_start] = RowStatus(
                    row, line["status"], line["error"], line["attempts"], line["seconds"], line["num_valid"]
                )
            earlier = {line["row"]: line["attempts"] for line in lines if line["status"] != PENDING}
            rows = [replace(s, attempts=s.attempts + earlier.get(s.row, 0)) for s in rows]
        for name, array in merged.items():
            array[local] = new[name]
        counts = new["valid"].sum(axis=tuple(range(1, new["valid"].ndim)), dtype=np.int64)
        for place, status, count in zip(local.tolist(), rows, counts.tolist(), strict=True):
            statuses[place] = replace(status, status=str(status.status), num_valid=count)
        for place in self._removed_places(task.row_start, task.row_stop).tolist():
            statuses[place] = RowStatus(task.row_start + place, VideoStatus.REMOVED.value, attempts=0)
            for array in merged.values():
                array[place] = 0
        if any(status is None for status in statuses):
            raise ConflictError(
                f"{self.spec.label}: expected rows {task.row_start}..{task.row_stop - 1} to be done or in the task, "
                f"found gaps in shard {task.shard}; ask `todo` again"
            )
        return merged, [status for status in statuses if status is not None]

    def _set_aside(self, base: LedgerEntry) -> None:
        """Keep the committed bytes of a shard until their replacement is committed."""
        for name in ("values", "valid"):
            kept = previous_key(self.spec.ledger, name, base.shard, base.generation)
            if not self._backend.exists(kept):
                key = shard_key(self.spec.array(name).key, base.shard, self._layouts[name].ndim)
                try:
                    self._backend.put(kept, self._backend.read(key))
                except NotFoundError:
                    continue  # lost already; verify reports it

    def _grow(self, row_stop: int) -> None:
        """Make the arrays' shapes reach `row_stop`; plain zarr would not show the rows otherwise."""
        for array in self.spec.arrays:
            if array.name != "geometry":
                write_array_metadata(
                    self._backend, array.key, self._layouts[array.name], row_stop, array.dimension_names
                )

    def _checked_arrays(
        self, task: ShardTask, values: Any, valid: Any, rows: Sequence[RowStatus]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values (zeros where not valid) and valid in their stored types."""
        self._guard.check()
        spec, n = self.spec, len(task.rows)
        layout = spec.array("values").layout
        values, valid = np.asarray(values), np.asarray(valid)
        if values.shape != (n, *layout.row_shape) or values.dtype.kind != "f":
            raise ShapeMismatchError(
                f"{spec.label}: expected values of shape {(n, *layout.row_shape)} in {spec.dtype}, "
                f"found {values.shape} in {values.dtype}"
            )
        valid_shape = (n, *spec.array("valid").layout.row_shape)
        if valid.shape != valid_shape or valid.dtype != np.bool_:
            raise ShapeMismatchError(
                f"{spec.label}: expected valid of shape {valid_shape} in bool, found {valid.shape} in {valid.dtype}"
            )
        found_rows = [s.row for s in rows]
        if found_rows != task.rows.tolist():
            raise ShapeMismatchError(
                f"{spec.label}: expected one RowStatus for each of the task's {n} rows in their order, "
                f"found {len(found_rows)} for rows {found_rows[:5]}..."
            )
        if unknown := {str(s.status) for s in rows} - _STATUSES - {PENDING}:
            raise InvalidInputError(f"expected statuses of {', '.join(sorted(_STATUSES))}, found {sorted(unknown)}")
        stored = np.zeros(values.shape, layout.dtype)
        with np.errstate(over="ignore"):
            stored[valid] = values[valid]
        if not np.isfinite(stored[valid]).all():
            bad = [int(task.rows[i]) for i in range(n) if not np.isfinite(stored[i][valid[i]]).all()]
            raise InvalidInputError(
                f"{spec.label}: expected finite values in the range of {spec.dtype} where valid, found others in "
                f"row(s) {bad[:5]}; mask those crops and give the row the status non_finite"
            )
        return stored, valid
