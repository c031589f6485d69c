"""Which vectors stand for a video in an index, read from the store in bounded pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import NoDataError, NotFoundError, ShapeMismatchError
from pipeline.fingerprint import fingerprint
from pipeline.readouts.fitting import part_dims, part_weights, read_parts
from pipeline.recipe import ReadoutSpec
from probe.maths.exact_search import unit_vectors

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore

ROWS_PER_READ = 4096


@dataclass(frozen=True)
class VectorSource:
    """One vector a video: pooled crops, an embedding, both side by side, or the parts of a readout without training."""

    dataset: str
    readout: str
    crops: str | None = None
    feature_set: str | None = None
    embedding: str | None = None
    spec: dict[str, Any] | None = None
    """What a readout that needs no training is made of, as its recipe section."""

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
        if self._readout is not None:
            return f"{self.readout} of {' and '.join('/'.join(pair) for pair in self._readout.feature_sets)}"
        parts = []
        if self.readout in ("mean", "joined"):
            parts.append(f"mean of {self.crops}/{self.feature_set}")
        if self.readout in ("cls", "joined"):
            parts.append(f"embedding {self.embedding}")
        return " + ".join(parts)

    def snapshot(self, ds: Dataset) -> str:
        """Return the snapshot id restricted to what this source reads."""
        if self._readout is not None:
            return fingerprint([ds.snapshot(crops=c, feature_set=f) for c, f in self._readout.feature_sets])
        if self._embedding is None:
            crops, feature_set = self._features
            return ds.snapshot(crops=crops, feature_set=feature_set)
        if self.readout == "cls":
            return ds.snapshot(embedding=self._embedding)
        crops, feature_set = self._features
        both = [ds.snapshot(crops=crops, feature_set=feature_set), ds.snapshot(embedding=self._embedding)]
        return fingerprint(both)

    def fingerprint(self, ds: Dataset) -> dict[str, Any]:
        """Return what changes the vectors: the readout and the fingerprints of the sets that it reads."""
        if self._readout is not None:
            sets = {f"{c}/{f}": ds.feature_info(c, f).fingerprint_id for c, f in self._readout.feature_sets}
            return {"readout": self.spec, "features": sets}
        content: dict[str, Any] = {"readout": self.readout}
        if self.readout != "cls":
            crops, feature_set = self._features
            info = ds.feature_info(crops, feature_set)
            content |= {"crops": crops, "feature_set": feature_set, "features": info.fingerprint_id}
        if self._embedding is not None:
            embeddings = ds.embedding_info(self._embedding).fingerprint_id
            content |= {"embedding": self._embedding, "embeddings": embeddings}
        return content

    def part_dims(self, ds: Dataset) -> tuple[int, ...]:
        """Return the channels of each part: one number, two where mean and embedding are joined, or one a part."""
        if self._readout is not None:
            return part_dims(self._readout, {pair: ds.feature_info(*pair).dim for pair in self._readout.feature_sets})
        dims = [] if self.readout == "cls" else [ds.feature_info(*self._features).dim]
        return (*dims, ds.embedding_info(self._embedding).dim) if self._embedding is not None else tuple(dims)

    def read(self, ds: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the raw vectors of some rows (ascending).

        Returns
        -------
        vectors : ndarray of shape (n, D), float32
            Not normalised; zeros where there is none.
        valid : ndarray of shape (n,), bool
        """
        if self._readout is not None:
            found, has_all = read_parts(ds, self._readout, rows)
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

    @cached_property
    def _readout(self) -> ReadoutSpec | None:
        return None if self.spec is None else ReadoutSpec.model_validate(self.spec)

    @property
    def say(self) -> tuple[float, ...]:
        """What each part counts; empty: all the same."""
        return () if self._readout is None else tuple(part_weights(self._readout))

    @property
    def feature_sets(self) -> tuple[tuple[str, str], ...]:
        """Every (crops, feature set) that is read."""
        if self._readout is not None:
            return self._readout.feature_sets
        return (self._features,) if self.readout != "cls" else ()

    @property
    def _features(self) -> tuple[str, str]:
        assert self.crops is not None and self.feature_set is not None  # noqa: PT018  (holds unless cls)
        return self.crops, self.feature_set

    @property
    def _embedding(self) -> str | None:
        return None if self.readout == "mean" else self.embedding


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


def pick_source(
    store: FeatureStore,
    dataset: str,
    *,
    readout: str,
    crops: str,
    feature_set: str,
    embedding: str | None,
    spec: ReadoutSpec | None = None,
) -> VectorSource:
    """Make a source of things that exist in the store.

    Raises
    ------
    NotFoundError
        Naming what exists instead.
    NoDataError
        If the dataset has no videos.
    """
    if dataset not in store.datasets():
        raise NotFoundError(
            f"expected dataset {dataset!r}, found {sorted(store.datasets())}; run `scale catalog` first"
        )
    ds = store.dataset(dataset)
    if ds.num_rows == 0:
        raise NoDataError(f"expected videos in dataset {dataset}, found none; run `scale catalog` first")
    reads = () if readout == "cls" else ((crops, feature_set),)
    for crops, feature_set in reads if spec is None else spec.feature_sets:
        known = ds.feature_sets(crops) if crops in ds.crop_sets() else []
        if feature_set not in known:
            raise NotFoundError(
                f"expected features {crops}/{feature_set} in dataset {dataset}, found {sorted(known) or 'none'}; "
                "run `scale extract` first"
            )
    if readout in ("cls", "joined") and (embedding is None or embedding not in ds.embedding_sets()):
        raise NotFoundError(
            f"expected the embedding set {embedding!r} in dataset {dataset}, "
            f"found {sorted(ds.embedding_sets()) or 'none'}; run `scale embed` first"
        )
    if spec is not None:
        return VectorSource(dataset, readout, spec=spec.model_dump(mode="json"))
    return VectorSource(
        dataset=dataset,
        readout=readout,
        crops=crops if readout != "cls" else None,
        feature_set=feature_set if readout != "cls" else None,
        embedding=embedding if readout != "mean" else None,
    )
