"""A dataset of the store: its catalogue, crop sets, feature sets, embedding sets and artifacts, at one moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError
from pipeline.names import check_name, check_set_name
from pipeline.sets.ledger import Ledger
from pipeline.sets.reader import SetReader
from pipeline.sets.set_files import (
    EmbeddingSetInfo,
    FeatureSetInfo,
    open_embedding_set,
    open_feature_set,
)
from pipeline.storage import schema
from pipeline.storage.layout import shard_range
from pipeline.storage.schema import STATUS_SCHEMA
from pipeline.store import progress, set_writers
from pipeline.store.appending import append_videos
from pipeline.store.artifacts import Artifact, list_artifacts, load_artifact, save_artifact
from pipeline.store.catalogue import AppendedVideos
from pipeline.store.changing import Changing
from pipeline.store.new_sets import drop_embedding_set
from pipeline.store.row_statuses import status_of_rows, status_pieces
from pipeline.store.selection import Selection, check_rows

if TYPE_CHECKING:
    from pipeline.recipe.crops import CropPolicy, CropPolicyBase
    from pipeline.sets.writer import EmbeddingWriter, FeatureWriter


class Dataset(Changing):
    """A handle that pins what it sees: the catalogue and every ledger as they stood when it was made.

    Made by :meth:`FeatureStore.dataset`; :meth:`refresh` gives one that sees the present.
    """

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
        WrongVideoError
            If a ledger or an array knows rows that the catalogue lacks: new videos would get them.
        """
        self._check_writable()
        self._pinned, appended = append_videos(self._backend, self.name, self._pinned, table)
        return appended

    def define_crop_set(self, name: str, policy: CropPolicyBase) -> None:
        """Define a crop set; nothing happens when the same policy stands under the name already.

        Raises
        ------
        FingerprintMismatchError
            If another policy does; names the fields that differ.
        """
        self._check_writable()
        set_writers.define_crop_set(self, name, policy)
        self._sets.add_crop_set(name)

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
        return self._sets.crop_sets()

    def feature_sets(self, crops: str) -> list[str]:
        """Return the names of a crop set's feature sets."""
        return self._sets.feature_sets(crops)

    def embedding_sets(self) -> list[str]:
        """Return the names of the embedding sets."""
        return self._sets.embedding_sets()

    def writer(
        self,
        crops: str,
        feature_set: str,
        fingerprint: Mapping[str, Any],
        dim: int,
        dtype: str = "float16",
        recipe: Mapping[str, Any] | None = None,
        accept: Iterable[str] = (),
        network: str | None = None,
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
        network : str, optional
            How the network runs that makes the features: kept in a new group's attributes for whoever adds to it. What
            an older one says is the writer's `network`.

        Raises
        ------
        FingerprintMismatchError
            If another fingerprint field differs; names it.
        NotFoundError
            If the crop set is not defined.
        """
        self._check_writable()
        num_crops = self.crop_policy(crops).num_crops
        return set_writers.feature_writer(
            self, crops, feature_set, fingerprint, num_crops=num_crops, dim=dim, dtype=dtype, recipe=recipe,
            accept=accept, network=network,
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
        return set_writers.embedding_writer(self, name, fingerprint, dim=dim, dtype=dtype, accept=accept, attrs=attrs)

    def drop_embeddings(self, name: str) -> None:
        """Remove an embedding set, so that another model's can stand under its name; nothing where there is none.

        Embeddings are made again in seconds from features that stay; a set is never a mixture of two models.
        """
        self._check_writable()
        drop_embedding_set(self._backend, self.name, check_set_name(name))
        self._sets.forget_embedding_set(name)

    def select(
        self,
        condition: str | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        video_ids: Iterable[str] | None = None,
        params: Sequence[Any] | Mapping[str, Any] | None = None,
    ) -> Selection:
        """Choose rows: by an SQL condition over the catalogue, by number, by video id; all of them when none is given.

        Parameters
        ----------
        condition : str, optional
            What would follow WHERE: ``"splits['1'] = 'train' AND label IN ('run', 'walk')"``.
        rows : sequence of int, optional
            The selection has them ascending, each once.
        video_ids : iterable of str, optional
            The selection has them as they are given: in this order, and as often.
        params : sequence or mapping, optional
            Values for ``?``, ``$1`` or ``$name`` in the condition.

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
            from pipeline.query.sql import select_rows

            return Selection(self, select_rows(schema.CATALOGUE_SCHEMA, self.parts, condition, params))
        if params is not None:
            raise InvalidInputError("expected a condition that the params belong to, found none")
        if video_ids is not None:
            return Selection(self, self._rows_of(list(video_ids)))
        return Selection(self, self._present_rows() if rows is None else check_rows(rows, self.num_rows))

    def status(self, crops: str, feature_set: str) -> pa.Table:
        """Return what became of every row: STATUS_SCHEMA, by row; `pending` where no ledger entry covers it."""
        return pa.concat_tables([STATUS_SCHEMA.empty_table(), *self.status_parts(crops, feature_set)])

    def status_parts(self, crops: str | None, name: str) -> Iterator[pa.Table]:
        """Yield :meth:`status` of a feature set, or of an embedding set (`crops` None), in pieces: bounded memory."""
        ledger = self._ledger(crops, name if crops is not None else self._sets.embedding_set(name))
        ids = self._side.ids(self._catalogue)
        return status_pieces(ids, ledger, self.shard_rows, self._side.removed_rows)

    def status_of(self, crops: str | None, name: str, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the lines of :meth:`status` of some rows, in the order given, without reading the others."""
        ledger = self._ledger(crops, name if crops is not None else self._sets.embedding_set(name))
        wanted = np.asarray(rows, np.int64)
        return status_of_rows(wanted, self.lines_of, ledger, self.shard_rows, self._side.removed_rows)

    def status_counts(self, crops: str, feature_set: str) -> dict[str, int]:
        """Return how many rows have each status, `pending` included; from what the entries say at a glance."""
        ledger = self._ledger(crops, feature_set)
        return dict(progress.status_counts(ledger, self.num_rows, self._side.removed_rows))

    def failed(self, crops: str, feature_set: str) -> pa.Table:
        """Return the lines of :meth:`status` that are neither ok nor pending, of videos that were not removed."""
        return progress.failed_table(self._ledger(crops, feature_set), self.lines_of, self._side.removed_rows)

    def undone_shards(self, crops: str, feature_set: str, again: Iterable[str] = ()) -> list[int]:
        """Return the shards of a set that have a video without a result, or with a status to be tried `again`."""
        ledger = self._ledger(crops, feature_set)
        return progress.undone_shards(ledger, self.num_rows, self.shard_rows, self._side.removed_rows, again)

    def shard_statuses(self, crops: str, feature_set: str, shard: int) -> np.ndarray:
        """Return the status of every row of a shard, object; the catalogue is not read."""
        rows = shard_range(shard, self.shard_rows, self.num_rows)
        return progress.shard_statuses(self._ledger(crops, feature_set), shard, rows, self._side.removed_rows)

    def embedding_status(self, name: str) -> pa.Table:
        """Return :meth:`status` of an embedding set."""
        return pa.concat_tables([STATUS_SCHEMA.empty_table(), *self.status_parts(None, name)])

    def feature_info(self, crops: str, feature_set: str) -> FeatureSetInfo:
        """Return sizes, fingerprint and progress of a feature set."""
        ledger = self._ledger(crops, feature_set)
        spec, attributes = open_feature_set(self._backend, self.name, crops, feature_set)
        return progress.feature_set_info(spec, attributes, self._catalogue, ledger)

    def embedding_info(self, name: str) -> EmbeddingSetInfo:
        """Return sizes, fingerprint and progress of an embedding set."""
        stored = self._sets.embedding_set(name)
        ledger = self._ledger(None, stored)
        spec, attributes = open_embedding_set(self._backend, self.name, stored)
        version = self._sets.embedding_version(stored)
        return progress.embedding_set_info(spec, attributes, self._catalogue, ledger, version)

    def snapshot(
        self,
        crops: str | None = None,
        feature_set: str | None = None,
        embedding: str | None = None,
        *,
        with_labels: bool = True,
    ) -> str:
        """Return one id for the state that this handle sees.

        Parameters
        ----------
        crops, feature_set : str, optional
            Count only this feature set.
        embedding : str, optional
            Count only this embedding set.
        with_labels : bool
            Count what labels, splits and groups were changed to; what reads none of them is made of the rest.

        Returns
        -------
        str
            sha256 over the catalogue's files and what the ledger entries in force say about the rows (not how long
            they took). Of everything when no set is named.
        """
        self._guard.check()
        files = [*self._catalogue.digests(), *self._side.digests(with_labels=with_labels)]
        if crops is None and feature_set is None and embedding is None:
            files.append(self._previews.state())  # nothing is made of them: no product becomes stale
        return progress.snapshot_id(self.name, files, self._sets.ledgers(crops, feature_set, embedding))

    def ledger(self, crops: str | None, name: str) -> Ledger:
        """Return the ledger of a feature set, or of an embedding set (`crops` None), as it stands now."""
        return self._sets.ledger_now(crops, name)

    def _reader(self, crops: str, feature_set: str) -> SetReader:
        self._guard.check()
        return self._sets.reader(crops, feature_set)

    def _embedding_reader(self, name: str) -> SetReader:
        self._guard.check()
        return self._sets.reader(None, self._sets.embedding_set(name))

    def _ledger(self, crops: str | None, name: str) -> Ledger:
        self._guard.check()
        return self._sets.ledger(crops, name)

    def save_artifact(
        self, kind: str, name: str, files: Mapping[str, bytes | Path], meta: Mapping[str, Any]
    ) -> Artifact:
        """Write a model, index or report as whole files: the name's next version, all of it at once or not at all.

        Parameters
        ----------
        kind : {"models", "indexes", "reports", "maps"}
        name : str
        files : mapping of file name to bytes or Path
        meta : mapping
            JSON-like: recipe, fingerprints and snapshot it came from.
        """
        self._check_writable()
        return save_artifact(self._backend, self.name, kind, name, files, meta)

    def artifact(self, kind: str, name: str) -> Artifact:
        """Open an artifact as it stands now, or an older version (``NAME@2``); NotFoundError names those that exist."""
        return load_artifact(self._backend, self.name, kind, name)

    def artifacts(self, kind: str) -> list[str]:
        """Return the names of the artifacts of a kind."""
        return list_artifacts(self._backend, self.name, kind)

    def _crop_set_attributes(self, name: str) -> dict[str, Any]:
        from pipeline.sets.arrays import read_group

        try:
            return read_group(self._backend, schema.crop_set_key(self.name, check_name(name)), "crop_set")
        except NotFoundError:
            raise self._sets.unknown("crop set", name, self.crop_sets()) from None
