"""What a store, a dataset and a selection offer to functions over them: queries, exports, imports.

Those functions are called by the handles' own methods, so they know the handles by these interfaces alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from pipeline.recipe.crops import CropPolicyBase
from pipeline.sets.blocks import FeatureBlock
from pipeline.sets.ledger import Ledger
from pipeline.sets.reader import SetReader
from pipeline.sets.set_files import EmbeddingSetInfo, FeatureSetInfo
from pipeline.storage.backend import StorageBackend


class StoreHandle(Protocol):
    """A store; :class:`pipeline.FeatureStore`."""

    backend: StorageBackend
    mode: Any

    @property
    def version(self) -> str:
        """Version of this project, for what it writes."""

    @property
    def url(self) -> str:
        """Its address."""

    @classmethod
    def open(cls, url: str) -> Any:
        """Open the store at an address for reading."""

    def datasets(self) -> list[str]:
        """Names of its datasets."""

    def dataset(self, name: str) -> Any:
        """Return a dataset as it stands now."""

    def create_dataset(self, name: str, shard_rows: int = ...) -> Any:
        """Make a dataset, or return it."""


class ArtifactHandle(Protocol):
    """A model, an index or a report; :class:`pipeline.store.artifacts.Artifact`."""

    name: str
    meta: Mapping[str, Any]
    files: Any

    def read(self, file: str) -> bytes:
        """Return one file."""


class DatasetHandle(Protocol):
    """A dataset at one state; :class:`pipeline.store.dataset.Dataset`."""

    name: str
    shard_rows: int
    backend: StorageBackend
    _store: StoreHandle

    @property
    def num_rows(self) -> int:
        """Rows of every array: videos, and those that were removed."""

    @property
    def by_row(self) -> pa.Table:
        """The catalogue with a line for every row in its place."""

    @property
    def num_shards(self) -> int:
        """Shards that the videos fill."""

    @property
    def videos(self) -> pa.Table:
        """The catalogue."""

    def lines_of(self, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the catalogue's lines of some rows."""

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the catalogue piece by piece."""

    def crop_sets(self) -> list[str]:
        """Names of its crop sets."""

    def feature_sets(self, crops: str) -> list[str]:
        """Names of a crop set's feature sets."""

    def embedding_sets(self) -> list[str]:
        """Names of its embedding sets."""

    def artifacts(self, kind: str) -> list[str]:
        """Names of its models, indexes or reports."""

    def artifact(self, kind: str, name: str) -> Any:
        """Open one of them."""

    def crop_policy(self, name: str) -> CropPolicyBase:
        """Return the policy of a crop set."""

    def feature_info(self, crops: str, feature_set: str) -> FeatureSetInfo:
        """Return facts of a feature set."""

    def embedding_info(self, name: str) -> EmbeddingSetInfo:
        """Return facts of an embedding set."""

    def embedding_status(self, name: str) -> pa.Table:
        """Return the status of every row of an embedding set."""

    def status(self, crops: str, feature_set: str) -> pa.Table:
        """Return the status of every row."""

    def status_parts(self, crops: str | None, name: str) -> Iterator[pa.Table]:
        """Yield the status of every row of a feature set, or of an embedding set (`crops` None), piece by piece."""

    def status_of(self, crops: str | None, name: str, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Return the status of some rows."""

    def status_counts(self, crops: str, feature_set: str) -> dict[str, int]:
        """Return how many rows have each status."""

    def failed(self, crops: str, feature_set: str) -> pa.Table:
        """Return the rows that are neither `ok` nor `pending`."""

    def snapshot(self, crops: str | None = None, feature_set: str | None = None, embedding: str | None = None) -> str:
        """Return the id of what is read."""

    def select(
        self,
        condition: str | None = None,
        rows: Sequence[int] | np.ndarray | None = None,
        video_ids: Iterable[str] | None = None,
    ) -> Any:
        """Return a selection."""

    def _ledger(self, crops: str | None, name: str) -> Ledger:
        """Return the ledger of a set."""

    def _reader(self, crops: str, feature_set: str) -> SetReader:
        """Return the reader of a feature set."""

    def _embedding_reader(self, name: str) -> SetReader:
        """Return the reader of an embedding set."""


class SelectionHandle(Protocol):
    """Rows of a dataset; :class:`pipeline.store.selection.Selection`."""

    rows: np.ndarray

    @property
    def dataset(self) -> DatasetHandle:
        """Whose rows."""

    @property
    def videos(self) -> pa.Table:
        """Their part of the catalogue."""

    def __len__(self) -> int: ...

    def with_status(self, crops: str, feature_set: str) -> pa.Table:
        """Return the catalogue with the columns `status` and `error` of a feature set."""

    def to_arrow(self, crops: str | None = None, feature_set: str | None = None) -> pa.Table:
        """Return videos, and features if named, as a flat table."""

    def batches(
        self, crops: str, feature_set: str, batch_size: int = ..., shuffle: bool = ...
    ) -> Iterator[FeatureBlock]:
        """Yield their features."""
