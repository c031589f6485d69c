"""Rows of a dataset that someone asked for, and the blocks of values that come back."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ShapeMismatchError
from pipeline.sets.blocks import EmbeddingBlock, FeatureBlock, Mode, read_rows

if TYPE_CHECKING:
    from pipeline.exchange.dask_arrays import FeatureArrays
    from pipeline.sets.handles import DatasetHandle


class Selection:
    """Rows of one dataset, as one handle sees it.

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        Ascending, each once; as asked for where they were chosen by video id.
    """

    def __init__(self, dataset: DatasetHandle, rows: np.ndarray) -> None:
        self.dataset = dataset
        self.rows = rows
        rows.flags.writeable = False

    def __getstate__(self) -> dict[str, Any]:
        return {"dataset": self.dataset, "rows": self.rows}

    @cached_property
    def _is_ascending(self) -> bool:
        return bool((self.rows[1:] > self.rows[:-1]).all())

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Selection({self.dataset.name!r}, {len(self)} of {self.dataset.num_rows} rows)"

    @cached_property
    def videos(self) -> pa.Table:
        """The catalogue of the selected rows, in their order."""
        return self.dataset.lines_of(self.rows)

    def with_status(self, crops: str, feature_set: str) -> pa.Table:
        """Return :attr:`videos` with the columns `status` and `error` of a feature set."""
        found = self.dataset.status_of(crops, feature_set, self.rows)
        videos = self.videos
        for name in ("status", "error"):
            videos = videos.append_column(name, found[name])
        return videos

    def features(self, crops: str, feature_set: str) -> FeatureBlock:
        """Return the features of all selected rows at once.

        Parameters
        ----------
        crops, feature_set : str
            Which crop set, seen by which backbone.

        Returns
        -------
        FeatureBlock
            Read-only views of the mapped store where the rows are a range of one shard; a copy otherwise. Rows
            without committed features are zeros with `valid` False.

        Raises
        ------
        NotFoundError
            If there is no such set.
        CorruptDataError, SnapshotChangedError
            See :class:`pipeline.sets.reader.SetReader`.
        """
        reader = self.dataset._reader(crops, feature_set)
        arrays = read_rows(reader, self.rows)
        return FeatureBlock(arrays["values"], arrays["valid"], arrays["geometry"], self.rows)

    def embeddings(self, name: str) -> EmbeddingBlock:
        """Return the embeddings of all selected rows; as :meth:`features`."""
        arrays = read_rows(self.dataset._embedding_reader(name), self.rows)
        return EmbeddingBlock(arrays["values"], arrays["valid"], self.rows)

    def batches(
        self,
        crops: str,
        feature_set: str,
        batch_size: int = 512,
        shuffle: bool = True,
        seed: int = 0,
        epoch: int = 0,
        mode: Mode = "auto",
        drop_last: bool = False,
        out: FeatureBlock | None = None,
        start_batch: int = 0,
        block_bytes: int | None = None,
    ) -> Iterator[FeatureBlock]:
        """Yield the selected rows once, in batches; see :mod:`pipeline.sets.batches`."""
        from pipeline.sets.batches import iterate, ordered

        reader = self.dataset._reader(crops, feature_set)
        if not self._is_ascending:

            def read(places: np.ndarray) -> FeatureBlock:
                return self.at(places).features(crops, feature_set)

            return ordered(
                self.rows, read, batch_size=batch_size, shuffle=shuffle, seed=seed, epoch=epoch, drop_last=drop_last,
                out=out, start_batch=start_batch,
            )  # fmt: skip
        return iterate(
            reader, self.rows, batch_size=batch_size, shuffle=shuffle, seed=seed,
            epoch=epoch, mode=mode, drop_last=drop_last, out=out, start_batch=start_batch, block_bytes=block_bytes,
        )  # fmt: skip

    def at(self, places: Any) -> Selection:
        """Return the videos at these places of the selection, in the order and as often as they are given."""
        return Selection(self.dataset, self.rows[places])

    def to_arrow(self, crops: str | None = None, feature_set: str | None = None) -> pa.Table:
        """Return videos, and features if named, as a flat table; see :func:`pipeline.exchange.frames.to_arrow`."""
        from pipeline.exchange.frames import to_arrow

        return to_arrow(self, crops, feature_set)

    def to_pandas(self, crops: str | None = None, feature_set: str | None = None) -> Any:
        """Return :meth:`to_arrow` as a pandas DataFrame, `values` an array (V, D) a video."""
        from pipeline.exchange.frames import to_pandas

        return to_pandas(self, crops, feature_set)

    def to_polars(self, crops: str | None = None, feature_set: str | None = None) -> Any:
        """Return :meth:`to_arrow` as a polars DataFrame."""
        from pipeline.exchange.frames import to_polars

        return to_polars(self, crops, feature_set)

    def to_hdf5(self, path: str | Path, crops: str, feature_set: str) -> Path:
        """Write the features to an HDF5 file; see :func:`pipeline.exchange.hdf5.export_hdf5`."""
        from pipeline.exchange.hdf5 import export_hdf5

        return export_hdf5(self, path, crops, feature_set)

    def to_dask(self, crops: str, feature_set: str) -> FeatureArrays:
        """Return features as lazy Dask arrays, a block a shard; see :func:`~pipeline.exchange.dask_arrays.to_dask`."""
        from pipeline.exchange.dask_arrays import to_dask

        return to_dask(self, crops, feature_set)


def check_rows(rows: Any, num_rows: int) -> np.ndarray:
    """Return row numbers as ascending int64, each once.

    Raises
    ------
    ShapeMismatchError
        If they are not whole numbers in ``[0, num_rows)``.
    """
    given = np.asarray(rows)
    if given.size == 0:
        return np.empty(0, np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ShapeMismatchError(f"expected a list of row numbers, found {given.dtype} of shape {given.shape}")
    ordered = np.sort(given.astype(np.int64))
    unique = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])]  # np.unique would import numpy.ma: 20 ms
    if unique[0] < 0 or unique[-1] >= num_rows:
        raise ShapeMismatchError(f"expected rows in 0..{num_rows - 1}, found {int(unique[0])}..{int(unique[-1])}")
    return unique
