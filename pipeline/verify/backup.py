"""A copy of a whole store as it stood at one moment: pinned, checked, and a store itself.

What vouches for bytes is copied after them, the root last. So a copy that was interrupted, and any other that was made
beside a run, holds nothing that is wrong: rows whose bytes are of another moment are refused by their checksums, rows
that the catalogue lacks by the ledger. Copying again brings only what is new.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pipeline.errors import ConflictError, NotFoundError, PipelineError
from pipeline.events import OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.sets.ledger_names import entry_key
from pipeline.storage import schema
from pipeline.storage.backend import StorageBackend
from pipeline.storage.opening import open_backend
from pipeline.storage.schema import BACKUP_MARK, NUMBER, ZARR_JSON, pack_key
from pipeline.storage.spare import COPIES, SUFFIX
from pipeline.store.catalogue import Catalogue
from pipeline.store.descriptions import META
from pipeline.store.feature_store import FeatureStore
from pipeline.store.pinned_sets import PinnedSets
from pipeline.store.video_rows import VideoRows
from pipeline.verify.findings import VerifyReport
from pipeline.verify.verify_store import verify_store

MAX_PASSES = 3
"""Beside a run that replaces what is being copied, a second pass takes the rest along."""
_LEDGER = re.compile(rf"/ledger(?:/[^/]+)?/{NUMBER}-{NUMBER}\.parquet\Z")
_COMMIT = re.compile(rf"catalog/(?:_copies/)?videos-{NUMBER}\.parquet\Z")


@dataclass(frozen=True, slots=True)
class BackupReport:
    """What :func:`backup_store` did."""

    source: str
    url: str
    snapshots: dict[str, str]
    """Dataset -> snapshot of the copy."""
    num_copied: int
    """Files."""
    num_bytes: int
    num_unchanged: int
    check: VerifyReport
    """Of the copy."""

    def summary(self) -> str:
        """One line."""
        state = "every byte checked" if self.check.is_clean else f"NOT whole: {self.check.summary()}"
        return (
            f"{self.source} -> {self.url}: {self.num_copied} files copied ({self.num_bytes / 1e6:.1f} MB), "
            f"{self.num_unchanged} were there; {state}"
        )


def backup_store(
    source: str | Path | StorageBackend, dest: str | Path | StorageBackend, on_event: OnEvent = ignore
) -> BackupReport:
    """Copy a store, or bring an earlier copy up to date, and check the copy.

    Parameters
    ----------
    dest : str, Path or StorageBackend
        An empty folder (or prefix of an object store), or an earlier backup.

    Raises
    ------
    StoreNotFoundError
        If there is no store at `source`.
    ConflictError
        If something else is at `dest`.
    """
    started = time.monotonic()
    store, target = FeatureStore.open(source), open_backend(dest, writable=True)
    _check_target(store.url, target)
    copied = _Copied()
    on_event(
        StageStarted("backup", total=len(store.datasets()), unit="datasets", detail=f"{store.url} -> {target.url}")
    )
    for number in range(MAX_PASSES):
        for done, name in enumerate(store.datasets(), start=1):
            _copy_dataset(store.backend, target, name, copied, fresh=number > 0)
            on_event(Progress("backup", done=done, total=len(store.datasets())))
        for key in (ZARR_JSON, f"{COPIES}/{ZARR_JSON}{SUFFIX}"):
            if store.backend.exists(key):
                copied.take(store.backend, target, key, fresh=True)
        check = verify_store(FeatureStore.open(target))
        if check.is_clean:
            break
    snapshots = {}
    with suppress(PipelineError):  # where the copy is not whole: the check says so
        copy = FeatureStore.open(target)
        snapshots = {name: copy.dataset(name).snapshot() for name in copy.datasets()}
    mark = {"of": store.url, "snapshots": snapshots, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    target.put(BACKUP_MARK, json.dumps(mark, indent=1).encode())
    report = BackupReport(
        store.url, target.url, snapshots, copied.num_files, copied.num_bytes, copied.num_unchanged, check
    )
    on_event(StageFinished("backup", report.summary(), time.monotonic() - started))
    return report


class _Copied:
    """Counts, and the one way to copy."""

    def __init__(self) -> None:
        self.num_files = self.num_bytes = self.num_unchanged = 0

    def take(self, source: StorageBackend, target: StorageBackend, key: str, *, fresh: bool) -> bool:
        """Copy a file unless the same bytes are there; return whether it was copied.

        Parameters
        ----------
        fresh : bool
            Whether the bytes have to be compared; of two equal names with equal sizes they are the same otherwise.
        """
        try:
            if not fresh and target.size(key) == source.size(key):
                self.num_unchanged += 1
                return False
        except NotFoundError:
            pass
        try:
            data = source.read(key)
        except NotFoundError:  # replaced meanwhile: the next pass takes what is there then
            return False
        try:
            if target.read(key) == data:
                self.num_unchanged += 1
                return False
        except NotFoundError:
            pass
        target.put(key, data)
        self.num_files += 1
        self.num_bytes += len(data)
        return True


def _check_target(source: str, target: StorageBackend) -> None:
    if target.exists(BACKUP_MARK):
        of = json.loads(target.read(BACKUP_MARK)).get("of")
        if of == source:
            return
        found = f"a backup of {of}"
    elif not target.list():
        target.put(BACKUP_MARK, json.dumps({"of": source}).encode())
        return
    else:
        found = "other files"
    raise ConflictError(f"expected an empty place or an earlier backup of {source} at {target.url}, found {found}")


def _copy_dataset(source: StorageBackend, target: StorageBackend, name: str, copied: _Copied, *, fresh: bool) -> None:
    """Copy what is pinned now: catalogue and groups, then arrays and files, then what vouches for those."""
    catalogue = Catalogue(source, name)
    sets = PinnedSets(source, name, VideoRows(source, name, catalogue))
    ledgers = sets.ledgers(None, None, None)
    sets.check_catalogue(catalogue.num_rows, shard_rows=1)
    entries = {entry_key(led.key, s, g): (led, s, g) for led in ledgers.values() for s, g in led.generations.items()}
    wanted = {
        key
        for key, _ in source.list(name)
        if not _is_writers_own(key) and _is_pinned(key, key.removeprefix(f"{name}/"), entries, catalogue.num_commits)
    }
    changed: set[tuple[str, int]] = set()
    for key, (ledger, shard, generation) in entries.items():
        place = key
        if key not in wanted:  # it lies in a pack
            found = None if ledger.packs is None else ledger.packs.find(shard, generation)
            place = key if found is None else pack_key(ledger.key, found[0].number)
        if not _is_equal(source, target, place):
            changed.add((ledger.key.partition("/ledger")[0], shard))  # arrays lie beside the ledger, geometry too
            target.delete(key)
    for key, _ in target.list(name):
        if key not in wanted:
            target.delete(key)
    for key in sorted(wanted, key=_turn):
        shard_number = schema.shard_of(key)
        is_new = any(key.startswith(f"{place}/") and shard_number == shard for place, shard in changed)
        copied.take(source, target, key, fresh=fresh or is_new or key.endswith((".json", SUFFIX)))


def _is_equal(source: StorageBackend, target: StorageBackend, key: str) -> bool:
    try:
        return target.size(key) == source.size(key) and ("/packs/" in key or target.read(key) == source.read(key))
    except NotFoundError:
        return False


def _is_writers_own(key: str) -> bool:
    """Whether a file is a claim, a lock, or was set aside."""
    return any(part.startswith("_") and part != COPIES for part in key.split("/")[1:-1])


def _is_pinned(key: str, inside: str, entries: Collection[str], commits: int) -> bool:
    if _LEDGER.search(inside):
        return key in entries
    commit = _COMMIT.match(inside)
    return commit is None or int(commit[1]) < commits


def _turn(key: str) -> tuple[int, str]:
    """Return when a file is copied: what vouches for others comes after them."""
    if _LEDGER.search(key) or "/packs/" in key or key.endswith((META, f"{META}{SUFFIX}")):
        return 2, key
    is_small = schema.shard_of(key) is None and key.endswith((".json", SUFFIX, ".parquet"))
    return (0 if is_small else 1), key
