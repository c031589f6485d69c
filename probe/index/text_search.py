"""Searching stored videos by vectors of another kind (of words): cosine with the plain mean of each video's crops.

No index is asked: indexes centre their vectors by the mean of the videos, which says nothing of the words. All vectors
of a set are compared, in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import InvalidInputError, NoDataError, ShapeMismatchError
from probe.data.vectors import VectorSource
from probe.index.search import Neighbours, nearest
from probe.maths.exact_search import unit_vectors

if TYPE_CHECKING:
    from pipeline import Dataset

KEPT_BYTES = 512 << 20
"""Largest set whose unit vectors are worth keeping in memory between searches."""


class WordsIndex:
    """The unit vectors of a feature set's videos at one moment.

    Parameters
    ----------
    ds : Dataset
    crops, feature_set : str
        What was seen by the backbone that the words' tower belongs to.
    """

    def __init__(self, ds: Dataset, crops: str, feature_set: str) -> None:
        self._source = VectorSource(readout="mean", crops=crops, feature_set=feature_set, dataset=ds.name)
        self._ds = ds
        self.label = f"{crops}/{feature_set}"
        self.dim = ds.feature_info(crops, feature_set).dim
        self._kept: list[tuple[np.ndarray, np.ndarray]] | None = None

    def search(self, vector: np.ndarray, k: int, among: np.ndarray | None = None) -> Neighbours:
        """Find the `k` videos nearest to one vector (D,).

        Parameters
        ----------
        among : ndarray of int64, optional
            Ascending rows to search instead of all.

        Raises
        ------
        ShapeMismatchError
            If the channels are not the features'.
        InvalidInputError
            If `k` is below 1 or the vector is not finite, or zero.
        NoDataError
            If no video has features.
        """
        if k < 1:
            raise InvalidInputError(f"expected k of at least 1, found {k}")
        if vector.shape != (self.dim,):
            raise ShapeMismatchError(
                f"expected {self.dim} channels of the text tower, as {self.label} has, found {vector.shape}; "
                "is it the tower of this backbone?"
            )
        if not np.isfinite(vector).all() or not vector.any():
            raise InvalidInputError("expected a finite vector that is not zero, found another")
        query = unit_vectors(vector[None].astype(np.float32))[0]
        rows, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for part, vectors in self._parts():
            inside = slice(None) if among is None else np.isin(part, among, assume_unique=True)
            rows.append(part[inside])
            scores.append(vectors[inside] @ query)
        kept = np.concatenate(rows)
        if not len(kept) and among is None:
            raise NoDataError(f"expected features in {self.label}, found none yet; run extract")
        return nearest(np.concatenate(scores)[None], kept[None], k)

    def _parts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows and unit vectors; kept in memory after the first time, where they are not too many."""
        if self._kept is not None:
            yield from self._kept
            return
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        num_bytes = 0
        for rows, raw in self._source.batches(self._ds):
            vectors = unit_vectors(raw)
            num_bytes += vectors.nbytes
            if num_bytes <= KEPT_BYTES:
                parts.append((rows, vectors))
            yield rows, vectors
        if num_bytes <= KEPT_BYTES:
            self._kept = parts
