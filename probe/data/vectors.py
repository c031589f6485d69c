"""Which vectors stand for a video in an index, read from the store in bounded pieces."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import ShapeMismatchError
from pipeline.products import Index, Vectors
from pipeline.readouts.fitting import part_weights, read_parts
from pipeline.recipe.readout_words import OF_EMBEDDINGS
from probe.maths.exact_search import unit_vectors

if TYPE_CHECKING:
    from pipeline import Dataset

ROWS_PER_READ = 4096


@dataclass(frozen=True, kw_only=True)
class VectorSource(Vectors):
    """The vectors of an index, read from the store."""

    dataset: str

    def __post_init__(self) -> None:
        """Check that what the readout reads is named."""
        if self.spec is not None:
            return
        needs_features, needs_embedding = self.readout != "cls", self.readout != "mean"
        assert not needs_features or None not in (self.crops, self.feature_set), self
        assert not needs_embedding or self.embedding is not None, self

    @property
    def label(self) -> str:
        """For messages: ``mean of grid5x3/x3d_xs``."""
        if self.untrained is not None:
            return f"{self.readout} of {' and '.join('/'.join(pair) for pair in self.untrained.feature_sets)}"
        parts = []
        if self.readout in ("mean", "joined"):
            parts.append(f"mean of {self.crops}/{self.feature_set}")
        if self.readout in OF_EMBEDDINGS:
            parts.append(f"embedding {self.embedding}")
        return " + ".join(parts)

    def read(self, ds: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the raw vectors of some rows (ascending).

        Returns
        -------
        vectors : ndarray of shape (n, D), float32
            Not normalised; zeros where there is none.
        valid : ndarray of shape (n,), bool
        """
        if self.untrained is not None:
            found, has_all = read_parts(ds, self.untrained, rows)
            return np.where(has_all[:, None], np.concatenate(found, axis=1), 0), has_all
        selection = ds.select(rows=rows)
        parts: list[np.ndarray] = []
        valid = np.ones(len(rows), bool)
        if self.readout != "cls":
            block = selection.features(*self._features)
            pooled, has_crops = pool_crops(block.values, block.valid)
            parts.append(pooled)
            valid &= has_crops
        if self._embedding is not None:
            embedded = selection.embeddings(self._embedding)
            parts.append(np.asarray(embedded.values, np.float32))
            valid &= np.asarray(embedded.valid, bool)
        return np.concatenate(parts, axis=1), valid

    def batches(self, ds: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ``(rows, raw vectors)`` of the videos that have one, a few thousand rows at a time."""
        for start in range(0, ds.num_rows, ROWS_PER_READ):
            rows = np.arange(start, min(start + ROWS_PER_READ, ds.num_rows), dtype=np.int64)
            vectors, valid = self.read(ds, rows)
            yield rows[valid], vectors[valid]

    @property
    def say(self) -> tuple[float, ...]:
        """What each part counts; empty: all the same."""
        return () if self.untrained is None else tuple(part_weights(self.untrained))

    @property
    def _features(self) -> tuple[str, str]:
        assert self.crops is not None and self.feature_set is not None  # noqa: PT018  (holds unless cls)
        return self.crops, self.feature_set

    @property
    def _embedding(self) -> str | None:
        return None if self.readout == "mean" else self.embedding

    @classmethod
    def of(cls, index: Index) -> VectorSource:
        """Return the vectors that a recipe's index is made of."""
        return cls(dataset=index.dataset, **dataclasses.asdict(index.vectors))


def pool_crops(values_NVD: np.ndarray, valid_NV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average each video's valid crops.

    Parameters
    ----------
    values_NVD : ndarray of shape (N, V, D)
    valid_NV : ndarray of shape (N, V), bool

    Returns
    -------
    pooled : ndarray of shape (N, D), float32
        Summed in float32; zeros where no crop is valid.
    has_crops : ndarray of shape (N,), bool

    Raises
    ------
    ShapeMismatchError
        If the first two axes differ.
    """
    if values_NVD.ndim != 3 or values_NVD.shape[:2] != valid_NV.shape:
        raise ShapeMismatchError(
            f"expected values (N, V, D) and valid (N, V), found {values_NVD.shape} and {valid_NV.shape}"
        )
    weights = np.asarray(valid_NV, np.float32)
    counts = weights.sum(axis=1)
    # einsum keeps one float32 copy of a row block, never one of the masked product.
    total = np.einsum("nvd,nv->nd", np.asarray(values_NVD, np.float32), weights)
    return total / np.maximum(counts, 1)[:, None], counts > 0


@dataclass(frozen=True)
class Transform:
    """What happens to a raw vector before it is compared: centre each part, make it unit length, join, unit length."""

    part_dims: tuple[int, ...]
    centre: np.ndarray
    """(D,) float32, subtracted; zeros where the index is not centred."""
    say: tuple[float, ...] = ()
    """What each part counts; empty: all the same."""

    @property
    def dim(self) -> int:
        """Channels of a whole vector."""
        return sum(self.part_dims)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Return unit vectors (n, D) float32.

        Raises
        ------
        ShapeMismatchError
            If the vectors do not have the channels of the index.
        """
        vectors = np.atleast_2d(np.asarray(vectors, np.float32))
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise ShapeMismatchError(f"expected query vectors (n, {self.dim}), found shape {vectors.shape}")
        centred = vectors - self.centre
        if len(self.part_dims) == 1:
            return unit_vectors(centred)
        edges = np.cumsum(self.part_dims)[:-1]
        say = self.say or (1.0,) * len(self.part_dims)
        parts = zip(np.split(centred, edges, axis=1), say, strict=True)
        return unit_vectors(np.concatenate([weight * unit_vectors(part) for part, weight in parts], axis=1))


def mean_vector(batches: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> tuple[np.ndarray, int]:
    """Return the mean of streamed vectors (D,) float32, summed in float64, and how many there were."""
    total, count = np.zeros(dim, np.float64), 0
    for _rows, vectors in batches:
        total += vectors.sum(axis=0, dtype=np.float64)
        count += len(vectors)
    return (total / max(count, 1)).astype(np.float32), count
