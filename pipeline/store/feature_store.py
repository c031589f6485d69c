"""The feature store: the one place where stages meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipeline.errors import AlreadyExistsError, ConflictError, InvalidInputError, NotFoundError, StoreNotFoundError
from pipeline.names import check_name, did_you_mean
from pipeline.sets.arrays import check_writable_schema, create_group, is_group, read_group
from pipeline.storage.backend import StorageBackend
from pipeline.storage.guard import ForkGuard
from pipeline.storage.layout import check_shard_rows
from pipeline.storage.opening import open_backend
from pipeline.storage.schema import BACKUP_MARK, SCHEMA_VERSION, STORE_KIND, ZARR_JSON
from pipeline.storage.spare import is_there
from pipeline.store.dataset import Dataset

if TYPE_CHECKING:
    from pipeline.exchange.imports import ImportReport

StoreMode = Literal["r", "a"]


def project_version() -> str:
    """Return this project's version, for what it writes."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version  # reads mail headers, and imports what reads them

    try:
        return installed_version("scale-pipeline")
    except PackageNotFoundError:
        return "unknown"


class FeatureStore:
    """Features of frozen backbones, their catalogue and what was made of them, in a folder or an object store.

    Made by :meth:`open`, :meth:`create` or :meth:`open_or_create`.

    Examples
    --------
    >>> from pipeline import FeatureStore
    >>> store = FeatureStore.create(tmp / "store")
    >>> store.create_dataset("jhmdb").num_rows
    0
    >>> store.datasets()
    ['jhmdb']
    """

    def __init__(self, backend: StorageBackend, mode: StoreMode) -> None:
        self.backend = backend
        self.mode = mode
        self._guard = ForkGuard()

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[StorageBackend, StoreMode]]:
        return FeatureStore, (self.backend, self.mode)

    def __repr__(self) -> str:
        return f"FeatureStore({self.url!r}, mode={self.mode!r})"

    @classmethod
    def create(cls, url: str | Path | StorageBackend) -> FeatureStore:
        """Make an empty store.

        Parameters
        ----------
        url : str, Path or StorageBackend
            A folder, or an ``s3://``, ``gs://`` or ``az://`` address.

        Raises
        ------
        AlreadyExistsError
            If one is there.
        """
        store = cls(open_backend(url, writable=True), "a")
        if not store._make_root():
            raise AlreadyExistsError(
                f"expected no store at {store.url}, found one; use FeatureStore.open, or another folder"
            )
        return store

    @classmethod
    def open(cls, url: str | Path | StorageBackend, mode: StoreMode = "r") -> FeatureStore:
        """Open a store.

        Parameters
        ----------
        mode : {"r", "a"}
            "r" reads, "a" may also write.

        Raises
        ------
        StoreNotFoundError
            If there is none at this address.
        SchemaVersionError
            If a newer version of this project wrote it (says which), or if it is to be written and of an older schema.
        """
        if mode not in ("r", "a"):
            raise InvalidInputError(f"expected mode 'r' or 'a', found {mode!r}")
        backend = open_backend(url, writable=mode == "a")
        try:
            attributes = read_group(backend, "", STORE_KIND)
        except StoreNotFoundError:
            raise
        except NotFoundError:
            raise StoreNotFoundError(
                f"expected a feature store at {backend.url}, found no {ZARR_JSON} there; check the address "
                "(`scale run` and FeatureStore.create make a new one)"
            ) from None
        if mode == "a":
            check_writable_schema(attributes.get("schema_version"), backend.url)
            if backend.exists(BACKUP_MARK):
                raise ConflictError(
                    f"expected a store to work in at {backend.url}, found a backup, which the next backup would "
                    f"undo; copy it, or delete its {BACKUP_MARK}"
                )
        return cls(backend, mode)

    @classmethod
    def open_or_create(cls, url: str | Path | StorageBackend) -> FeatureStore:
        """Open a store for writing; make it when there is none."""
        try:
            return cls.open(url, mode="a")
        except StoreNotFoundError:
            try:
                return cls.create(url)
            except AlreadyExistsError:  # another process was faster
                return cls.open(url, mode="a")

    @cached_property
    def version(self) -> str:
        """Version of this project, for what it writes."""
        return project_version()

    @property
    def url(self) -> str:
        """Address of the store."""
        return self.backend.url

    def datasets(self) -> list[str]:
        """Return the names of the datasets."""
        self._guard.check()
        names = (name for name in self.backend.folders() if not name.startswith("_"))
        return [name for name in names if is_group(self.backend, name, "dataset")]

    def create_dataset(self, name: str, shard_rows: int = 256) -> Dataset:
        """Make a dataset; nothing happens when it is there with the same `shard_rows`.

        Parameters
        ----------
        name : str
        shard_rows : int
            Videos a shard: the unit of work, of writing and of retry.

        Raises
        ------
        ConflictError
            If it is there with another `shard_rows`.
        """
        self._guard.check()
        check_name(name)
        check_shard_rows(shard_rows)
        if self.mode == "r":
            raise ConflictError(
                f"expected a store opened for writing, found {self.url} opened with mode 'r'; "
                "use FeatureStore.open(url, mode='a')"
            )
        is_new = create_group(
            self.backend, name,
            {"kind": "dataset", "schema_version": SCHEMA_VERSION, "written_by": self.version, "shard_rows": shard_rows},
        )  # fmt: skip
        if is_new and not is_there(self.backend, ZARR_JSON) and self.datasets() == [name]:
            self._make_root()  # a run that failed took the empty store away under this handle
        dataset = self.dataset(name)
        if dataset.shard_rows != shard_rows:
            raise ConflictError(
                f"expected dataset {name} with {shard_rows} rows a shard, found {dataset.shard_rows}; "
                f"set `shard_rows: {dataset.shard_rows}` in the recipe, or use another dataset name"
            )
        return dataset

    def _make_root(self) -> bool:
        attributes = {"kind": STORE_KIND, "schema_version": SCHEMA_VERSION, "written_by": self.version}
        return create_group(self.backend, "", attributes)

    def dataset_name(self, name: str) -> str:
        """Return the name of a dataset that is there, whole or not; NotFoundError lists those that are."""
        if not is_group(self.backend, check_name(name), "dataset"):
            raise NotFoundError(
                f"expected a dataset of {self.url} ({', '.join(self.datasets()) or 'there is none yet'}), "
                f"found {name!r}{did_you_mean(name, self.datasets())}"
            )
        return name

    def dataset(self, name: str) -> Dataset:
        """Return a handle that pins the dataset as it stands now.

        Raises
        ------
        NotFoundError
            If there is none of this name; lists those that exist.
        """
        self._guard.check()
        try:
            attributes = read_group(self.backend, check_name(name), "dataset")
        except NotFoundError:
            raise NotFoundError(
                f"expected a dataset of {self.url} ({', '.join(self.datasets()) or 'there is none yet'}), "
                f"found {name!r}{did_you_mean(name, self.datasets())}"
            ) from None
        return Dataset(self, name, check_shard_rows(attributes.get("shard_rows")))  # type: ignore[arg-type]

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
        """Run one SELECT over the store.

        Parameters
        ----------
        query : str
            DuckDB's dialect; tables ``<dataset>.videos``, ``.ledger``, ``.geometry``, ``.sets``, ``.shards``,
            ``.numbers``, ``.predictions`` ..., and one for the vectors of each set, ``<dataset>."crops/features"``:
            docs/store.md lists them.
        params : sequence or mapping, optional
            Values for ``?``, ``$1`` or ``$name`` in the query.

        Raises
        ------
        QueryError
            If it is anything but one SELECT over these tables, or does not run.
        """
        self._guard.check()
        from pipeline.query.sql import run_query
        from pipeline.query.sql_tables import store_tables

        return run_query(query, store_tables(self, query), params)

    def import_hdf5(self, path: str | Path, **options: Any) -> ImportReport:
        """Import features from an HDF5 file; see :func:`pipeline.exchange.hdf5_import.import_hdf5`."""
        from pipeline.exchange.hdf5_import import import_hdf5

        return import_hdf5(self, path, **options)

    def import_scale_memmaps(self, folder: str | Path, **options: Any) -> ImportReport:
        """Import the original SCALE's memory maps; see :func:`pipeline.exchange.scale_memmaps.import_scale_memmaps`."""
        from pipeline.exchange.scale_memmaps import import_scale_memmaps

        return import_scale_memmaps(self, folder, **options)
