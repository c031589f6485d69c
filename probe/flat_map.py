"""Flat maps: where videos lie by one vector each, on two principal components or by UMAP; kept in the store."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.errors import CorruptDataError, InvalidInputError, MissingDependencyError, NotFoundError
from pipeline.names import check_name

if TYPE_CHECKING:
    from pipeline import Dataset
    from probe.data.vectors import VectorSource

# What computes is imported where it computes: a server that shows a stored map must not wait for torch.

MAX_POINTS = 4000
MAP_FILE = "map.npz"
MAX_MAP_BYTES = 16 << 20
"""Of a stored map, unpacked; larger ones were not made here."""
MAP_VERSION = 1
Method = Literal["pca", "umap"]
METHODS: tuple[Method, ...] = ("pca", "umap")


@dataclass(frozen=True)
class FlatMap:
    """Where videos lie."""

    source: str
    method: str
    rows: np.ndarray
    """(n,) int64, ascending; evenly drawn where there are more than can be shown."""
    points: np.ndarray
    """(n, 2) float32, both axes scaled together into -1..1."""
    explained: tuple[float, float]
    """Shares of the variance on each axis; zeros for UMAP, whose axes mean nothing."""
    num_videos: int
    """Rows of the dataset."""
    snapshot: str
    """Of what was read."""


def map_sources(ds: Dataset) -> list[str]:
    """Return what can be mapped: ``embedding NAME`` and ``mean of crops/set``."""
    features = [f"mean of {crops}/{name}" for crops in ds.crop_sets() for name in ds.feature_sets(crops)]
    return [f"embedding {name}" for name in ds.embedding_sets()] + features


def source_snapshot(ds: Dataset, source: str) -> str:
    """Return the state of what a source reads; NotFoundError says what there is."""
    return _vectors(ds, source).snapshot(ds)


def _vectors(ds: Dataset, source: str) -> VectorSource:
    from probe.data.vectors import VectorSource

    known = map_sources(ds)
    if source not in known:
        raise NotFoundError(f"expected one of {', '.join(known) or 'nothing yet'} to map, found {source!r}")
    kind, _, name = source.rpartition(" ")
    if kind == "embedding":
        return VectorSource(readout="cls", embedding=name, dataset=ds.name)
    crops, _, feature_set = name.partition("/")
    return VectorSource(readout="mean", crops=crops, feature_set=feature_set, dataset=ds.name)


def make_map(
    ds: Dataset, source: str, method: Method = "pca", *, max_points: int = MAX_POINTS, seed: int = 0
) -> FlatMap:
    """Compute a map.

    Parameters
    ----------
    ds : Dataset
    source : str
        One of :func:`map_sources`.
    method : {"pca", "umap"}
    max_points : int
        Of more videos evenly spread ones are shown.
    seed : int
        Of UMAP.

    Raises
    ------
    NotFoundError
        If there is no such source, or no video has a vector.
    MissingDependencyError
        For UMAP without its library.
    """
    if method not in METHODS:
        raise InvalidInputError(f"expected a method out of {', '.join(METHODS)}, found {method!r}")
    from probe.data.vectors import ROWS_PER_READ
    from probe.maths.exact_search import unit_vectors

    vectors = _vectors(ds, source)
    rows = ds.select().rows
    if len(rows) > max_points:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, max_points).astype(np.int64))]
    parts = [vectors.read(ds, rows[start : start + ROWS_PER_READ]) for start in range(0, len(rows), ROWS_PER_READ)]
    valid = np.concatenate([found for _, found in parts]) if parts else np.zeros(0, bool)
    if not valid.any():
        raise NotFoundError(f"expected vectors of {source}, found none; run extract or embed first")
    kept = np.concatenate([part for part, _ in parts])[valid]
    centred = unit_vectors(kept - kept.mean(axis=0))
    points, explained = _umap(centred, seed) if method == "umap" else _components(centred)
    scale = np.abs(points).max()
    points = (points / (scale if scale > 0 else 1)).astype(np.float32)
    return FlatMap(source, method, rows[valid], points, explained, ds.num_rows, vectors.snapshot(ds))


def _components(unit_ND: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    from probe.methods.overview import principal_axes

    centred = unit_ND - unit_ND.mean(axis=0)
    axes, explained = principal_axes(centred)
    return centred @ axes.T, explained


def _umap(unit_ND: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    try:
        from umap import UMAP
    except ImportError as err:
        raise MissingDependencyError(
            "expected the library umap-learn for a map by UMAP, found none; pip install 'scale-pipeline[umap]'"
        ) from err
    if len(unit_ND) < 4:
        raise InvalidInputError(f"expected at least 4 videos with vectors for UMAP, found {len(unit_ND)}; use pca")
    fitted = UMAP(n_neighbors=min(15, len(unit_ND) - 1), metric="cosine", random_state=seed, n_jobs=1, init="pca")
    found = np.asarray(fitted.fit_transform(unit_ND), np.float64)
    return found - (found.max(axis=0) + found.min(axis=0)) / 2, (0.0, 0.0)


def save_map(ds: Dataset, name: str, made: FlatMap) -> None:
    """Keep a map in the store, under a name; an older one stays addressable until it is pruned."""
    meta = {"version": MAP_VERSION, "source": made.source, "method": made.method, "snapshot": made.snapshot,
            "num_points": len(made.rows), "num_videos": made.num_videos}  # fmt: skip
    ds.save_artifact("maps", check_name(name), {MAP_FILE: map_bytes(made)}, meta)


def read_map(ds: Dataset, name: str) -> FlatMap:
    """Return a stored map.

    Raises
    ------
    NotFoundError
        If there is none of this name.
    CorruptDataError
        If it is not what was written.
    """
    artifact = ds.artifact("maps", name)
    return parse_map(artifact.read(MAP_FILE), what=artifact.label)


def map_bytes(made: FlatMap) -> bytes:
    """Return a map as one NumPy archive."""
    buffer = io.BytesIO()
    texts = {name: np.array(getattr(made, name)) for name in ("source", "method", "snapshot")}
    numbers: Mapping[str, Any] = {
        "rows": made.rows, "points": made.points, "explained": made.explained, "num_videos": made.num_videos,
    }  # fmt: skip
    arrays: dict[str, Any] = {**numbers, **texts}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def parse_map(data: bytes, *, what: str) -> FlatMap:
    """Read :func:`map_bytes`; CorruptDataError where it is something else."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_MAP_BYTES:
                raise ValueError("more bytes than any map has")
        with np.load(io.BytesIO(data), allow_pickle=False) as kept:
            rows, points = kept["rows"].astype(np.int64), kept["points"].astype(np.float32)
            explained = tuple(float(share) for share in kept["explained"])
            texts = [str(kept[name]) for name in ("source", "method", "snapshot")]
            num_videos = int(kept["num_videos"])
        is_map = points.shape == (len(rows), 2) and np.isfinite(points).all() and len(explained) == 2
        if not is_map or (len(rows) and not 0 <= rows[0] <= rows[-1] < num_videos) or (np.diff(rows) <= 0).any():
            raise ValueError("rows and points that do not fit")
        return FlatMap(texts[0], texts[1], rows, points, (explained[0], explained[1]), num_videos, texts[2])
    except (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as err:
        raise CorruptDataError(f"{what}: expected a map, found {str(err)[:120]}; run `scale map` again") from err
