"""A dataset of the store: its catalogue, crop sets, feature sets, embedding sets and artifacts, at one moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline import schema
from pipeline.artifacts import Artifact, list_artifacts, load_artifact, save_artifact
from pipeline.catalogue import AppendedVideos, Catalogue
from pipeline.errors import ConflictError, CorruptDataError, FingerprintMismatchError, InvalidInputError, NotFoundError
from pipeline.fingerprint import canonical_json, check_same
from pipeline.fingerprint import fingerprint as hash_of
from pipeline.guard import ForkGuard
from pipeline.layout import num_shards
from pipeline.ledger import Ledger
from pipeline.names import check_name
from pipeline.reader import SetReader
from pipeline.schema import PENDING, STATUS_SCHEMA
from pipeline.selection import Selection, check_rows
from pipeline.sets import (
    EmbeddingSetInfo,
    FeatureSetInfo,
    SetSpec,
    embedding_set_spec,
    feature_set_spec,
    open_embedding_set,
    open_feature_set,
)

if TYPE_CHECKING:
    from pipeline.recipe.crops import CropPolicy, CropPolicyBase
    from pipeline.store import FeatureStore
    from pipeline.writer import EmbeddingWriter, FeatureWriter

SetKey = tuple[str | None, str]
"""(crop set, feature set) or (None, embedding set)."""


class Dataset:
    """A handle that pins what it sees: the catalogue and every ledger as they stood when it was made.

    Made by :meth:`FeatureStore.dataset`; :meth:`refresh` gives one that sees the present.
    """

    def __init__(self, store: FeatureStore, name: str, shard_rows: int) -> None:
        self._store = store
        self.backend = self._backend = store.backend
        self._guard = ForkGuard()
        self.name = name
        self.shard_rows = shard_rows
        self._catalogue = Catalogue(self._backend, name)
        self._ledgers: dict[SetKey, Ledger] = {}
        self._crop_sets: dict[str, list[str]] = {}
        for crops in self._backend.folders(f"{name}/crops"):
            self._crop_sets[crops] = self._backend.folders(f"{name}/crops/{crops}/features")
            for feature_set in self._crop_sets[crops]:
                key = schema.feature_ledger_key(name, crops, feature_set)
                self._ledgers[crops, feature_set] = Ledger(self._backend, key)
        for embedding in self._backend.folders(f"{name}/embeddings"):
            self._ledgers[None, embedding] = Ledger(self._backend, schema.embedding_ledger_key(name, embedding))
        self._readers: dict[SetKey, SetReader] = {}

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {self.num_rows} videos, {self._store.url!r})"

    def refresh(self) -> Dataset:
        """Return a new handle that sees the present."""
        return self._store.dataset(self.name)

    # -- catalogue ---------------------------------------------------------------------------------------------------

    @property
    def num_rows(self) -> int:
        """Videos."""
        return self._catalogue.num_rows

    @property
    def num_shards(self) -> int:
        """Shards that the videos fill."""
        return num_shards(self.num_rows, self.shard_rows)

    @property
    def videos(self) -> pa.Table:
        """The catalogue, CATALOGUE_SCHEMA, ordered by row."""
        self._guard.check()
        return self._catalogue.videos

    def row_of(self, video_id: str) -> int:
        """Return the row of a video id; NotFoundError if there is none."""
        return self._catalogue.row_of(video_id)

    def append_videos(self, table: pa.Table) -> AppendedVideos:
        """Add the videos that are not there yet, as one commit; this handle then sees them.

        Parameters
        ----------
        table : pyarrow.Table
            Columns of CATALOGUE_SCHEMA except `row` and `added_at`; at least `video_id`.

        Raises
        ------
        VideoChangedError
            If a known id has another sha256; nothing is added.
        """
        self._check_writable()
        self._catalogue, appended = self._catalogue.append(table)
        return appended

    # -- crop sets ---------------------------------------------------------------------------------------------------

    def define_crop_set(self, name: str, policy: CropPolicyBase) -> None:
        """Define a crop set; nothing happens when the same policy stands under the name already.

        Raises
        ------
        FingerprintMismatchError
            If another policy does; names the fields that differ.
        """
        self._check_writable()
        from pipeline.arrays import create_group

        folder = schema.crop_set_key(self.name, check_name(name))
        content = policy.model_dump(mode="json")
        attributes = self._attributes("crop_set", policy=content, fingerprint=hash_of(content),
                                      geometry_columns=list(schema.GEOMETRY_COLUMNS))  # fmt: skip
        for parent in (f"{self.name}/crops", folder, f"{folder}/features"):
            create_group(self._backend, parent, attributes if parent == folder else {})
        check_same(self._crop_set_attributes(name)["policy"], content, what=f"crop set {name}")
        self._crop_sets.setdefault(name, [])

    def crop_policy(self, name: str) -> CropPolicy:
        """Return the policy of a crop set; NotFoundError names those that exist."""
        from pydantic import TypeAdapter, ValidationError

        from pipeline.recipe.crops import CropPolicy

        try:
            adapter: TypeAdapter[CropPolicy] = TypeAdapter(CropPolicy)
            return adapter.validate_python(self._crop_set_attributes(name)["policy"])
        except ValidationError as err:
            raise CorruptDataError(f"crop set {name}: expected a crop policy, found {err}") from err

    def crop_sets(self) -> list[str]:
        """Return the names of the crop sets."""
        return sorted(self._crop_sets)

    def feature_sets(self, crops: str) -> list[str]:
        """Return the names of a crop set's feature sets."""
        if crops not in self._crop_sets:
            raise self._unknown("crop set", crops, self.crop_sets())
        return sorted(self._crop_sets[crops])

    def embedding_sets(self) -> list[str]:
        """Return the names of the embedding sets."""
        return sorted(name for crops, name in self._ledgers if crops is None)

    # -- writing -----------------------------------------------------------------------------------------------------

    def writer(
        self,
        crops: str,
        feature_set: str,
        fingerprint: Mapping[str, Any],
        dim: int,
        dtype: str = "float16",
        recipe: Mapping[str, Any] | None = None,
        accept: Iterable[str] = (),
    ) -> FeatureWriter:
        """Open a feature set for writing; make it when it is new.

        Parameters
        ----------
        crops : str
            A crop set that :meth:`define_crop_set` defined.
        feature_set : str
            Its name: the backbone, plus the stream where it is not rgb.
        fingerprint : mapping
            Everything that changes the numbers; compared with what stands in the store.
        dim : int
            Channels.
        dtype : {"float16", "float32"}
        recipe : mapping, optional
            Kept in the group's attributes, so that features can be made again.
        accept : iterable of str
            Fingerprint fields that may differ; the ledger then records what each shard has.

        Raises
        ------
        FingerprintMismatchError
            If another fingerprint field differs; names it.
        NotFoundError
            If the crop set is not defined.
        """
        self._check_writable()
        from pipeline.writer import FeatureWriter

        policy = self.crop_policy(crops)
        spec = feature_set_spec(
            self.name, crops, check_name(feature_set), num_crops=policy.num_crops, dim=dim, dtype=dtype,
            shard_rows=self.shard_rows,
        )  # fmt: skip
        extra = {"num_crops": policy.num_crops, "recipe": dict(recipe) if recipe else None}
        stored = self._open_or_create(spec, "feature_set", fingerprint, extra)
        differing = check_same(stored["fingerprint"], fingerprint, what=spec.label, accept=accept)
        return FeatureWriter(
            self._backend, spec, num_rows=Catalogue(self._backend, self.name).num_rows,
            fingerprint_id=stored["fingerprint_id"], differing=differing,
        )  # fmt: skip

    def embedding_writer(
        self,
        name: str,
        fingerprint: Mapping[str, Any],
        dim: int,
        dtype: str = "float32",
        accept: Iterable[str] = (),
        attrs: Mapping[str, Any] | None = None,
    ) -> EmbeddingWriter:
        """Open an embedding set for writing; as :meth:`writer`. `attrs` are kept with it."""
        self._check_writable()
        from pipeline.writer import EmbeddingWriter

        spec = embedding_set_spec(self.name, check_name(name), dim=dim, dtype=dtype, shard_rows=self.shard_rows)
        stored = self._open_or_create(spec, "embedding_set", fingerprint, {"attrs": dict(attrs or {})})
        differing = check_same(stored["fingerprint"], fingerprint, what=spec.label, accept=accept)
        return EmbeddingWriter(
            self._backend, spec, num_rows=Catalogue(self._backend, self.name).num_rows,
            fingerprint_id=stored["fingerprint_id"], differing=differing,
        )  # fmt: skip

    def drop_embeddings(self, name: str) -> None:
        """Remove an embedding set, so that another model's can stand under its name; nothing where there is none.

        Embeddings are made again in seconds from features that stay; a set is never a mixture of two models.
        """
        self._check_writable()
        folder = schema.embedding_set_key(self.name, check_name(name))
        if self._backend.exists(f"{folder}/{schema.ZARR_JSON}"):
            self._backend.delete(f"{folder}/{schema.ZARR_JSON}")  # first: from here on there is no such set
        ledger = schema.embedding_ledger_key(self.name, name)
        for prefix in (ledger, folder):
            for key, _ in self._backend.list(prefix):
                self._backend.delete(key)
        self._ledgers.pop((None, name), None)
        self._readers.pop((None, name), None)

    def _open_or_create(
        self, spec: SetSpec, kind: str, fingerprint: Mapping[str, Any], extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the attributes of a set; make its arrays, then its group, when there is none."""
        from pipeline.arrays import create_group, read_group, write_array_metadata
        from pipeline.locks import exclusive

        num_rows = Catalogue(self._backend, self.name).num_rows
        content = json.loads(canonical_json(dict(fingerprint)))
        try:
            stored = read_group(self._backend, spec.group, kind)
        except NotFoundError:
            if spec.crop_set is None:
                create_group(self._backend, f"{self.name}/embeddings", {})
            with exclusive(self._backend, spec.crop_set or spec.ledger):
                if not self._backend.exists(f"{spec.group}/{schema.ZARR_JSON}"):
                    for array in spec.arrays:
                        write_array_metadata(
                            self._backend, array.key, array.layout, num_rows, array.dimension_names,
                            replace_other=array.name != "geometry",
                        )  # fmt: skip
                    attributes = self._attributes(
                        kind, fingerprint=content, fingerprint_id=hash_of(content), dim=spec.dim, dtype=spec.dtype,
                        shard_rows=spec.shard_rows, **extra,
                    )  # fmt: skip
                    create_group(self._backend, spec.group, attributes)
            stored = read_group(self._backend, spec.group, kind)
        else:
            with exclusive(self._backend, spec.crop_set or spec.ledger):
                for array in spec.arrays:
                    write_array_metadata(self._backend, array.key, array.layout, num_rows, array.dimension_names)
        found = (stored.get("dim"), stored.get("dtype"), stored.get("shard_rows"))
        if found != (spec.dim, spec.dtype, spec.shard_rows):
            check_same(stored["fingerprint"], content, what=spec.label)  # names the reason where it can
            raise FingerprintMismatchError(
                f"{spec.label}: expected dim, dtype, shard_rows = {found} as stored, offered "
                f"{(spec.dim, spec.dtype, spec.shard_rows)}; use another name",
                fields=("dim", "dtype"),
            )
        return stored

    # -- reading -----------------------------------------------------------------------------------------------------

    def select(
        self,
        condition: str | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        video_ids: Iterable[str] | None = None,
    ) -> Selection:
        """Choose rows: by an SQL condition over the catalogue, by number, by video id; all of them when none is given.

        Parameters
        ----------
        condition : str, optional
            What would follow WHERE: ``"splits['1'] = 'train' AND label IN ('run', 'walk')"``.
        rows : sequence of int, optional
        video_ids : iterable of str, optional

        Raises
        ------
        QueryError
            If the condition does not run.
        NotFoundError
            If a video id is unknown.
        """
        self._guard.check()
        if sum(given is not None for given in (condition, rows, video_ids)) > 1:
            raise InvalidInputError("expected one of condition, rows and video_ids, found several")
        if condition is not None:
            from pipeline.sql import select_rows

            return Selection(self, select_rows(self.videos, condition))
        if video_ids is not None:
            rows = [self.row_of(video_id) for video_id in video_ids]
        return Selection(self, np.arange(self.num_rows) if rows is None else check_rows(rows, self.num_rows))

    def status(self, crops: str, feature_set: str) -> pa.Table:
        """Return what became of every video: STATUS_SCHEMA, by row; `pending` where no ledger entry covers it."""
        return self._status(self._ledger(crops, feature_set))

    def embedding_status(self, name: str) -> pa.Table:
        """Return :meth:`status` of an embedding set."""
        return self._status(self._ledger(None, name))

    def _status(self, ledger: Ledger) -> pa.Table:
        n = self.num_rows
        columns: dict[str, Any] = {
            "row": np.arange(n),
            "video_id": self.videos["video_id"],
            "status": np.full(n, PENDING, object),
            "error": np.full(n, "", object),
            "attempts": np.zeros(n, np.int32),
            "seconds": np.zeros(n),
            "shard": np.arange(n) // self.shard_rows,
        }
        generations = np.full(n, -1)
        for entry in ledger.entries():
            covered = slice(entry.row_start, min(entry.row_stop, n))
            size = max(0, covered.stop - covered.start)
            for name in ("status", "error", "attempts", "seconds"):
                columns[name][covered] = entry.table[name].to_numpy(zero_copy_only=False)[:size]
            generations[covered] = entry.generation
        columns["generation"] = pa.array(generations, mask=generations < 0)
        arrays = [
            column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([pa.array(column, field.type)])
            for field, column in ((f, columns[f.name]) for f in STATUS_SCHEMA)
        ]
        return pa.table(arrays, schema=STATUS_SCHEMA)

    def feature_info(self, crops: str, feature_set: str) -> FeatureSetInfo:
        """Return sizes, fingerprint and progress of a feature set."""
        ledger = self._ledger(crops, feature_set)
        spec, attributes = open_feature_set(self._backend, self.name, crops, feature_set)
        assert spec.num_crops is not None
        return FeatureSetInfo(
            num_crops=spec.num_crops, dim=spec.dim, dtype=spec.dtype, shard_rows=spec.shard_rows,
            fingerprint=attributes["fingerprint"], fingerprint_id=attributes["fingerprint_id"],
            num_shards=self.num_shards, num_shards_done=self._num_done(ledger), recipe=attributes.get("recipe"),
        )  # fmt: skip

    def embedding_info(self, name: str) -> EmbeddingSetInfo:
        """Return sizes, fingerprint and progress of an embedding set."""
        ledger = self._ledger(None, name)
        spec, attributes = open_embedding_set(self._backend, self.name, name)
        return EmbeddingSetInfo(
            dim=spec.dim, dtype=spec.dtype, shard_rows=spec.shard_rows, fingerprint=attributes["fingerprint"],
            fingerprint_id=attributes["fingerprint_id"], num_shards=self.num_shards,
            num_shards_done=self._num_done(ledger), attrs=dict(attributes.get("attrs") or {}),
        )  # fmt: skip

    def _num_done(self, ledger: Ledger) -> int:
        done = 0
        for entry in ledger.entries():
            stop = min((entry.shard + 1) * self.shard_rows, self.num_rows)
            done += entry.row_stop >= stop and PENDING not in entry.statuses and entry.row_start < self.num_rows
        return done

    def snapshot(self, crops: str | None = None, feature_set: str | None = None, embedding: str | None = None) -> str:
        """Return one id for the state that this handle sees.

        Parameters
        ----------
        crops, feature_set : str, optional
            Count only this feature set.
        embedding : str, optional
            Count only this embedding set.

        Returns
        -------
        str
            sha256 over the catalogue's files and what the ledger entries in force say about the rows (not how long
            they took). Of everything when no set is named.
        """
        self._guard.check()
        chosen: Collection[SetKey]
        if feature_set is not None:
            chosen = [(crops, feature_set)]
            self._ledger(crops, feature_set)
        elif embedding is not None:
            chosen = [(None, embedding)]
            self._ledger(None, embedding)
        else:
            chosen = sorted(
                (k for k in self._ledgers if crops is None or k[0] == crops), key=lambda k: (k[0] or "", k[1])
            )
        digest = hashlib.sha256(f"{self.name}\n".encode())
        for line in self._catalogue.digests():
            digest.update(line.encode())
        for key in chosen:
            digest.update(f"\n{key[0]}/{key[1]}\n".encode())
            for entry in self._ledgers[key].entries():
                digest.update(f"{entry.shard}:{entry.content_id};".encode())
        return digest.hexdigest()

    def _reader(self, crops: str, feature_set: str) -> SetReader:
        self._guard.check()
        if (crops, feature_set) not in self._readers:
            ledger = self._ledger(crops, feature_set)
            spec, _ = open_feature_set(self._backend, self.name, crops, feature_set)
            self._readers[crops, feature_set] = SetReader(self._backend, spec, ledger)
        return self._readers[crops, feature_set]

    def _embedding_reader(self, name: str) -> SetReader:
        self._guard.check()
        if (None, name) not in self._readers:
            ledger = self._ledger(None, name)
            spec, _ = open_embedding_set(self._backend, self.name, name)
            self._readers[None, name] = SetReader(self._backend, spec, ledger)
        return self._readers[None, name]

    def _ledger(self, crops: str | None, name: str) -> Ledger:
        self._guard.check()
        ledger = self._ledgers.get((crops, name))
        if ledger is not None:
            return ledger
        if crops is None:
            raise self._unknown("embedding set", name, self.embedding_sets())
        raise self._unknown(f"feature set of {crops}", name, self.feature_sets(crops))

    # -- artifacts ---------------------------------------------------------------------------------------------------

    def save_artifact(
        self, kind: str, name: str, files: Mapping[str, bytes | Path], meta: Mapping[str, Any]
    ) -> Artifact:
        """Write a model, index or report as whole files; the older one of the name is replaced at once, or not at all.

        Parameters
        ----------
        kind : {"models", "indexes", "reports"}
        name : str
        files : mapping of file name to bytes or Path
        meta : mapping
            JSON-like: recipe, fingerprints and snapshot it came from.
        """
        self._check_writable()
        return save_artifact(self._backend, self.name, kind, name, files, meta)

    def artifact(self, kind: str, name: str) -> Artifact:
        """Open an artifact as it stands now; NotFoundError names those that exist."""
        self._guard.check()
        return load_artifact(self._backend, self.name, kind, name)

    def artifacts(self, kind: str) -> list[str]:
        """Return the names of the artifacts of a kind."""
        self._guard.check()
        return list_artifacts(self._backend, self.name, kind)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _crop_set_attributes(self, name: str) -> dict[str, Any]:
        from pipeline.arrays import read_group

        try:
            return read_group(self._backend, schema.crop_set_key(self.name, check_name(name)), "crop_set")
        except NotFoundError:
            raise self._unknown("crop set", name, self.crop_sets()) from None

    def _attributes(self, kind: str, **content: Any) -> dict[str, Any]:
        return {"kind": kind, "schema_version": schema.SCHEMA_VERSION, "written_by": self._store.version, **content}

    def _check_writable(self) -> None:
        self._guard.check()
        if self._store.mode == "r":
            raise ConflictError(
                f"expected a store opened for writing, found {self._store.url} opened with mode 'r'; "
                "use FeatureStore.open(url, mode='a')"
            )

    def _unknown(self, what: str, name: str, there: list[str]) -> NotFoundError:
        return NotFoundError(
            f"expected a {what} of dataset {self.name} ({', '.join(there) or 'there is none yet'}), found {name!r}"
        )
