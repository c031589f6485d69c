"""Checking one dataset: what must be there, catalogue, sets, shared geometry, artifacts, what should not be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline.errors import CorruptDataError, FormatError, NotFoundError, UnsafeNameError
from pipeline.sets.arrays import read_layout
from pipeline.sets.geometry import vouched_rows
from pipeline.sets.ledger_names import list_generations
from pipeline.sets.mapped import chunks_hold
from pipeline.sets.set_files import SetSpec
from pipeline.storage import schema
from pipeline.storage.claims import Claims
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import shard_key
from pipeline.storage.shardfile import encode_shard
from pipeline.store.catalogue import Catalogue
from pipeline.store.rows import SideState
from pipeline.store.video_rows import VideoRows
from pipeline.verify.findings import Findings
from pipeline.verify.inventory import Inventory
from pipeline.verify.strange_files import check_strange_files
from pipeline.verify.verify_artifact import check_artifact
from pipeline.verify.verify_catalogue import check_catalogue
from pipeline.verify.verify_previews import check_previews
from pipeline.verify.verify_records import check_indexes, check_runs
from pipeline.verify.verify_set import SetCheck
from pipeline.verify.verify_side import check_leftover_ledgers, check_removals, check_side_files

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


class DatasetCheck:
    """The check of one dataset.

    Attributes
    ----------
    num_shards, num_rows, num_bytes : int
        What was checked.
    """

    def __init__(self, store: FeatureStore, name: str, findings: Findings, *, copied: bool) -> None:
        self._backend = store.backend
        self._name = name
        self._findings = findings
        self.num_rows = self.num_bytes = 0
        self._inventory = Inventory(findings, name, copied=copied)
        self._copied = copied
        shard_rows = self._inventory.check_dataset()
        self._shard_rows = shard_rows
        self._specs: list[SetSpec] = [] if shard_rows is None else list(self._inventory.specs(shard_rows))
        self.num_shards = sum(len(self._shards(spec.ledger) or ()) for spec in self._specs)

    def _shards(self, ledger: str) -> set[int] | None:
        """Return the shards that a ledger knows, None where that cannot be told."""
        try:
            return set(list_generations(self._backend, ledger))
        except CorruptDataError:
            return None

    def run(self) -> Iterator[None]:
        """Check everything, yielding after every shard."""
        catalogue = check_catalogue(self._findings, self._name)
        repair = self._findings.repair
        check_side_files(self._backend, self._name, self._findings.add, repair=repair)
        binding = None if catalogue is None else self._binding(catalogue)
        num_videos = None if catalogue is None else catalogue.num_rows
        self.num_rows += num_videos or 0
        for spec in self._specs:
            check = SetCheck(self._findings, spec, num_videos=num_videos, binding=binding)
            with suppress(UnsafeNameError):  # a link out of the store is a finding of its own
                yield from check.run()
            self.num_rows += check.num_rows
            self.num_bytes += check.num_bytes
        if binding is not None:
            check_removals(self._backend, self._name, self._findings.add)
        check_leftover_ledgers(self._backend, self._name, self._findings.add, repair=repair)
        check_runs(self._findings, self._name)
        if catalogue is not None:
            check_indexes(self._findings, self._name, catalogue)
        for crops in self._inventory.crop_sets:
            with suppress(UnsafeNameError):
                self._check_geometry(crops)
        for kind, name in self._inventory.artifacts:
            with suppress(UnsafeNameError):
                self.num_bytes += check_artifact(self._findings, f"{self._name}/{kind}/{name}", copied=self._copied)
        if binding is not None and self._shard_rows is not None:
            check_previews(self._findings, self._name, self._shard_rows, binding)
        check_strange_files(self._findings, self._name, self._is_live)
        if self._findings.repair:
            for spec in self._specs:
                for key in Claims(self._backend, f"{spec.ledger}/_claims").expired():
                    self._backend.delete(key)

    def _binding(self, catalogue: Catalogue) -> VideoRows | None:
        """Return whose rows they are; None where what changed of some is damaged: then no row is called another's."""
        with suppress(CorruptDataError):
            side = SideState(self._backend, self._name)
            return VideoRows(self._backend, self._name, catalogue, side.removed_rows, side.states)
        return None

    def _check_geometry(self, crops: str) -> None:
        """Check the shared geometry: shards that no ledger knows, damage between the rows."""
        folder = schema.crop_set_key(self._name, crops)
        found = [self._shards(f"{folder}/ledger/{name}") for name in self._backend.folders(f"{folder}/ledger")]
        if None in found:
            return  # reported with its set; no shard may be called an orphan
        known = {shard for shards in found for shard in shards or ()}
        for key, _ in self._backend.list(schema.geometry_key(self._name, crops), recursive=False):
            shard = schema.shard_of(key)
            if shard is None:
                continue
            if shard in known:
                self._check_geometry_shard(crops, shard)
                continue
            if self._is_live(f"{folder}/"):
                continue  # somebody is between writing the arrays and committing them
            fixed = self._findings.drop(key) if self._findings.repair else ""
            self._findings.add("orphan", key, "a geometry shard without a ledger entry", fixed)

    def _check_geometry_shard(self, crops: str, shard: int) -> None:
        """Hold a shard to Zarr's own checksums too, which cover what lies beside the rows."""
        folder = schema.crop_set_key(self._name, crops)
        key = schema.geometry_key(self._name, crops)
        with exclusive(self._backend, folder):
            try:
                layout, _ = read_layout(self._backend, key)
                if layout is None or chunks_hold(self._backend, shard_key(key, shard, layout.ndim), layout):
                    return
                fixed = ""
                if self._findings.repair:
                    rows = vouched_rows(self._backend, folder, key, layout, shard)
                    where = shard_key(key, shard, layout.ndim)
                    if len(rows):
                        kept = self._findings.put(where, encode_shard(rows, layout))
                        fixed = f"written again from the rows that a ledger vouches for{kept}"
                    else:
                        fixed = self._findings.drop(where)
            except (FormatError, NotFoundError):
                return  # reported with the set that reads it
        self._findings.add("wrong checksum", f"{key} shard {shard}", "bytes differ from what was written", fixed)

    def _is_live(self, key: str) -> bool:
        """Whether a worker that is alive may be writing there."""
        for spec in self._specs:
            places = [f"{p}/" for p in (spec.group, spec.ledger, spec.crop_set) if p is not None]
            inside = any(key.startswith(place) or place.startswith(key) for place in places)
            if inside and Claims(self._backend, f"{spec.ledger}/_claims").holders():
                return True
        return False
