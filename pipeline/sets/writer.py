"""The two writers of the store: features with their crops' geometry, and embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.sets.ledger_entry import LedgerEntry, RowStatus
from pipeline.sets.set_writer import SetWriter
from pipeline.sets.shard_task import ShardTask

__all__ = ["EmbeddingWriter", "FeatureWriter", "ShardTask"]


class FeatureWriter(SetWriter):
    """Writes one feature set; from :meth:`Dataset.writer`.

    Attributes
    ----------
    network : str or None
        How the network is to run that makes the set, as who began it decided; None where nothing says.
    """

    def __init__(self, *, network: str | None, **opened: Any) -> None:
        super().__init__(**opened)
        self.network = network

    def write(
        self,
        task: ShardTask,
        values: np.ndarray,
        valid: np.ndarray,
        geometry: np.ndarray,
        rows: Sequence[RowStatus],
        device: str = "cpu",
        seconds: float = 0.0,
        versions: Mapping[str, str] | None = None,
    ) -> LedgerEntry:
        """Commit the rows of a task; durable when it returns.

        Parameters
        ----------
        task : ShardTask
            From :meth:`todo`.
        values : ndarray of shape (n, V, D), floating
            n = len(task.rows). Crops that are not valid are stored as zeros whatever stands there.
        valid : ndarray of shape (n, V), bool
        geometry : ndarray of shape (n, V, 9), float32
            Columns GEOMETRY_COLUMNS, raw units; zeros for a video that could not be opened.
        rows : sequence of RowStatus
            One for each row, in the task's order.
        device : str
            That computed them.
        seconds : float
            That it took.
        versions : mapping
            Tool versions, for the ledger.

        Raises
        ------
        ShapeMismatchError, InvalidInputError
            Arrays that do not fit, or non-finite values.
        AlreadyExistsError
            If another worker committed this generation first: the work is done, by another.
        ConflictError
            If a row's geometry differs from what another backbone committed for it.
        CorruptDataError
            If the shard's committed rows do not match their checksums.
        """
        stored, valid = self._checked_arrays(task, values, valid, rows)
        geometry = np.asarray(geometry)
        shape = (len(task.rows), *self.spec.array("geometry").layout.row_shape)
        if geometry.shape != shape or geometry.dtype.kind != "f":
            raise ShapeMismatchError(
                f"{self.spec.label}: expected geometry of shape {shape} in float32, "
                f"found {geometry.shape} in {geometry.dtype}"
            )
        boxes = geometry.astype(np.float32)
        if not np.isfinite(boxes[valid]).all():
            raise InvalidInputError(f"{self.spec.label}: expected finite geometry where valid, found NaN or infinity")
        boxes[~np.isfinite(boxes)] = 0
        new = {"values": stored, "valid": valid, "geometry": boxes}
        return self._commit(task, new, rows, device=device, seconds=seconds, versions=versions or {})


class EmbeddingWriter(SetWriter):
    """Writes one embedding set; from :meth:`Dataset.embedding_writer`."""

    def write(
        self,
        task: ShardTask,
        values: np.ndarray,
        valid: np.ndarray,
        rows: Sequence[RowStatus],
        device: str = "cpu",
        seconds: float = 0.0,
        versions: Mapping[str, str] | None = None,
    ) -> LedgerEntry:
        """Commit the rows of a task; see :meth:`FeatureWriter.write`. `values` is (n, E), `valid` (n,)."""
        stored, valid = self._checked_arrays(task, values, valid, rows)
        new = {"values": stored, "valid": valid}
        return self._commit(task, new, rows, device=device, seconds=seconds, versions=versions or {})
