"""Checking one dataset: catalogue, groups, artifacts, leftovers; its sets are checked by `verify_set`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import CorruptDataError, FormatError, NotFoundError, PipelineError
from pipeline.sets.arrays import read_group, read_layout
from pipeline.sets.geometry import vouched_rows
from pipeline.sets.ledger import list_generations
from pipeline.sets.mapped import chunks_hold
from pipeline.sets.set_files import SetSpec, open_embedding_set, open_feature_set
from pipeline.storage import schema
from pipeline.storage.claims import Claims
from pipeline.storage.locks import exclusive
from pipeline.storage.schema import shard_key
from pipeline.storage.sealed import check_seal
from pipeline.storage.shardfile import encode_shard
from pipeline.store.artifacts import META, Artifact, artifact_versions, drop_version, list_artifacts, load_artifact
from pipeline.store.catalogue import Catalogue
from pipeline.store.commits import commit_numbers
from pipeline.store.video_rows import VideoRows
from pipeline.verify.findings import Problem
from pipeline.verify.verify_set import SetCheck
from pipeline.verify.verify_side import check_leftover_ledgers, check_removals, check_side_files

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


class DatasetCheck:
    """The check of one dataset.

    Attributes
    ----------
    problems : list of Problem
    num_shards, num_rows, num_bytes : int
        What was checked.
    """

    def __init__(self, store: FeatureStore, name: str, *, repair: bool) -> None:
        self._backend = store.backend
        self._name = name
        self._repair = repair
        self.problems: list[Problem] = []
        self.num_rows = self.num_bytes = 0
        self._num_videos: int | None = None
        self._binding: VideoRows | None = None
        attributes = read_group(self._backend, name, "dataset")
        self._shard_rows = int(attributes["shard_rows"])
        self._specs = self._open_sets()
        self.num_shards = sum(len(self._shards(spec.ledger) or ()) for spec in self._specs)

    def _shards(self, ledger: str) -> set[int] | None:
        """Return the shards that a ledger knows, None where that cannot be told."""
        try:
            return set(list_generations(self._backend, ledger))
        except CorruptDataError:
            return None

    def run(self) -> Iterator[None]:
        """Check everything, yielding after every shard."""
        self._check_catalogue()
        for spec in self._specs:
            check = SetCheck(
                self._backend, spec, num_videos=self._num_videos, binding=self._binding, repair=self._repair
            )
            yield from check.run()
            self.problems.extend(check.problems)
            self.num_rows += check.num_rows
            self.num_bytes += check.num_bytes
        check_side_files(self._backend, self._name, self._found, repair=self._repair)
        if self._num_videos is not None:
            check_removals(self._backend, self._name, self._found)
        check_leftover_ledgers(self._backend, self._name, self._found, repair=self._repair)
        self._check_geometry()
        self._check_artifacts()
        self._check_leftovers()

    def _found(self, kind: str, where: str, what: str, repaired: str = "", rows: int = 0) -> None:
        self.problems.append(Problem(kind=kind, where=where, what=what, repaired=repaired, rows=rows))

    def _open_sets(self) -> list[SetSpec]:
        specs = []
        for crops in self._backend.folders(f"{self._name}/crops"):
            key = schema.crop_set_key(self._name, crops)
            if not self._backend.exists(f"{key}/{schema.ZARR_JSON}"):
                continue
            try:
                read_group(self._backend, key, "crop_set")
            except FormatError as err:
                self._found("damaged metadata", key, str(err))
                continue
            for name in self._backend.folders(f"{key}/features"):
                try:
                    specs.append(open_feature_set(self._backend, self._name, crops, name)[0])
                except NotFoundError:
                    continue  # never finished being created; the next writer does it
                except PipelineError as err:
                    self._found("damaged metadata", schema.feature_set_key(self._name, crops, name), str(err))
        for name in self._backend.folders(f"{self._name}/embeddings"):
            try:
                specs.append(open_embedding_set(self._backend, self._name, name)[0])
            except NotFoundError:
                continue
            except PipelineError as err:
                self._found("damaged metadata", schema.embedding_set_key(self._name, name), str(err))
        return specs

    def _check_catalogue(self) -> None:
        copies = commit_numbers(self._backend, self._name, copies=True)
        known = sorted({*commit_numbers(self._backend, self._name), *copies})
        whole = True
        for number in known:
            whole &= self._check_commit(number)
        if known and known[-1] >= len(known):
            gap = next(n for n, number in enumerate(known) if n != number)
            what = f"expected numbers 0..{known[-1]}, found no number {gap}; restore it from a backup"
            self._found("damaged catalogue", schema.catalogue_key(self._name, gap), what)
            whole = False
        if not whole:
            return
        try:
            catalogue = Catalogue(self._backend, self._name)
            self._num_videos = catalogue.num_rows
            self._binding = VideoRows(self._backend, self._name, catalogue)
            ids = catalogue.videos["video_id"].to_pylist()
            if len(set(ids)) != len(ids):
                self._found("damaged catalogue", schema.catalogue_prefix(self._name), "a video id stands in two rows")
            self.num_rows += len(ids)
        except CorruptDataError as err:
            self._found("damaged catalogue", schema.catalogue_prefix(self._name), str(err))

    def _check_commit(self, number: int) -> bool:
        """Check a catalogue file and its copy; restore one from the other. Returns whether a good one is there."""
        keys = (schema.catalogue_key(self._name, number), schema.catalogue_copy_key(self._name, number))
        good: list[bytes | None] = []
        reasons = []
        for key in keys:
            try:
                data = self._backend.read(key)
                check_seal(data, what=key)
                good.append(data)
                reasons.append("")
            except NotFoundError:
                good.append(None)
                reasons.append("expected a catalogue file, found none")
            except CorruptDataError as err:
                good.append(None)
                reasons.append(str(err))
        for place, key in enumerate(keys):
            other = good[1 - place]
            if good[place] is None:
                fixed = ""
                if other is not None and self._repair:
                    self._backend.put(key, other)
                    fixed = "restored from its copy"
                hint = "" if other is not None else "; there is no good copy, restore it from a backup"
                self._found("damaged catalogue", key, reasons[place] + hint, fixed)
        if good[0] is not None and good[1] is not None and good[0] != good[1]:
            if self._repair:
                self._backend.put(keys[1], good[0])
            self._found("damaged catalogue", keys[1], "the copy differs", "copied again" if self._repair else "")
        return any(data is not None for data in good)

    def _check_geometry(self) -> None:
        """Check the shared geometry: shards that no ledger knows, damage between the rows."""
        for crops in self._backend.folders(f"{self._name}/crops"):
            folder = schema.crop_set_key(self._name, crops)
            names = self._backend.folders(f"{folder}/ledger")
            found = [self._shards(f"{folder}/ledger/{name}") for name in names]
            if None in found:
                continue  # reported with its set; no shard may be called an orphan
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
                if self._repair:
                    self._backend.delete(key)
                self._found("orphan", key, "a geometry shard without a ledger entry", "deleted" if self._repair else "")

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
                if self._repair:
                    rows = vouched_rows(self._backend, folder, key, layout, shard)
                    data = encode_shard(rows, layout) if len(rows) else b""
                    where = shard_key(key, shard, layout.ndim)
                    self._backend.put(where, data) if data else self._backend.delete(where)
                    fixed = "written again from the rows that a ledger vouches for"
            except FormatError:
                return  # reported with the set that reads it
        self._found("wrong checksum", f"{key} shard {shard}", "bytes differ from what was written", fixed)

    def _check_artifacts(self) -> None:
        for kind in schema.ARTIFACT_KINDS:
            for name in list_artifacts(self._backend, self._name, kind):
                key = f"{self._name}/{kind}/{name}"
                try:
                    artifact = load_artifact(self._backend, self._name, kind, name)
                    for file in artifact.files:
                        self.num_bytes += len(artifact.read(file))
                    self._check_older(artifact)
                except (FormatError, NotFoundError) as err:
                    if self._repair:
                        with exclusive(self._backend, key):
                            self._backend.delete(f"{key}/{META}")
                    fixed = "dropped; the next run makes it again" if self._repair else ""
                    self._found("damaged artifact", key, str(err), fixed)

    def _check_older(self, newest: Artifact) -> None:
        for one in artifact_versions(self._backend, self._name, newest.kind, newest.name):
            if one.version == newest.version:
                continue
            try:
                for file in one.files:
                    self.num_bytes += len(one.read(file))
            except (FormatError, NotFoundError) as err:
                if self._repair:
                    drop_version(self._backend, one)
                where = f"{self._name}/{one.label}"
                self._found("damaged artifact", where, str(err), "this version dropped" if self._repair else "")

    def _check_leftovers(self) -> None:
        """Temporary files of killed writers, and claims of dead ones."""
        for key, size in self._backend.leftovers(self._name):
            if self._is_live(key):
                continue
            if self._repair:
                self._backend.delete(key)
            what = f"{size} bytes that a killed writer left"
            self._found("partial file", key, what, "deleted" if self._repair else "")
        if self._repair:
            for spec in self._specs:
                for key in Claims(self._backend, f"{spec.ledger}/_claims").expired():
                    self._backend.delete(key)

    def _is_live(self, key: str) -> bool:
        """Whether a worker that is alive may be writing there."""
        for spec in self._specs:
            places = [f"{p}/" for p in (spec.group, spec.ledger, spec.crop_set) if p is not None]
            inside = any(key.startswith(place) or place.startswith(key) for place in places)
            if inside and Claims(self._backend, f"{spec.ledger}/_claims").holders():
                return True
        return False
