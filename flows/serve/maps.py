"""A flat map of a dataset: two principal components of one vector a video, computed once a snapshot and kept."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.serve.answers import feature_pairs
from flows.serve.stores import HeldDataset
from pipeline.errors import NotFoundError

MAX_POINTS = 4000
ROWS_PER_READ = 4096


@dataclass(frozen=True)
class FlatMap:
    """Where videos lie."""

    rows: np.ndarray
    """(n,) int64, ascending; at most 4,000, evenly drawn."""
    points: np.ndarray
    """(n, 2) float32, each axis scaled to -1..1 together."""
    explained: tuple[float, float]
    num_videos: int
    """Videos that have a vector."""


def map_sources(held: HeldDataset) -> list[str]:
    """Return what can be mapped: ``mean of crops/set`` and ``embedding NAME``."""
    return [f"embedding {n}" for n in held.dataset.embedding_sets()] + [
        f"mean of {c}/{n}" for c, n in feature_pairs(held)
    ]


def make_map(held: HeldDataset, source: str, cache: Path) -> FlatMap:
    """Return the map of a source, from the cache folder where this snapshot of it was mapped before.

    Raises
    ------
    NotFoundError
        If there is no such source, or no video has a vector.
    """
    if source not in map_sources(held):
        raise NotFoundError(f"expected one of {', '.join(map_sources(held)) or 'nothing yet'} to map, found {source!r}")
    ds = held.dataset
    kind, _, name = source.rpartition(" ")
    crops, _, feature_set = name.partition("/")
    state = ds.snapshot(embedding=name) if kind == "embedding" else ds.snapshot(crops=crops, feature_set=feature_set)
    digest = hashlib.sha256(f"map-1\n{ds.name}\n{source}\n{state}".encode()).hexdigest()
    file = cache / "maps" / f"{digest}.npz"
    if (kept := _read(file)) is not None:
        return kept
    rows = np.flatnonzero(held.present)
    if len(rows) > MAX_POINTS:
        rows = np.unique(np.linspace(0, len(rows) - 1, MAX_POINTS).astype(np.int64))
    vectors, valid = _vectors(held, kind == "embedding", name, crops, feature_set, rows)
    rows, vectors = rows[valid], vectors[valid]
    if not len(rows):
        raise NotFoundError(f"expected vectors of {source}, found none; run extract or embed first")
    made = _project(rows, vectors, ds.num_rows)
    _write(file, made)
    return made


def _vectors(
    held: HeldDataset, is_embedding: bool, name: str, crops: str, feature_set: str, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    from probe.data.vectors import pool_crops

    values, valid = [], []
    for begin in range(0, len(rows), ROWS_PER_READ):
        selection = held.dataset.select(rows=rows[begin : begin + ROWS_PER_READ])
        if is_embedding:
            block = selection.embeddings(name)
            part, present = np.asarray(block.values, np.float32), np.asarray(block.valid, bool)
        else:
            features = selection.features(crops, feature_set)
            part, present = pool_crops(features.values, features.valid)
        values.append(part)
        valid.append(present)
    return np.concatenate(values), np.concatenate(valid)


def _project(rows: np.ndarray, vectors: np.ndarray, num_videos: int) -> FlatMap:
    from probe.methods.overview import principal_axes

    centred = vectors - vectors.mean(axis=0)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    centred = centred / np.where(norms > 0, norms, 1)
    centred -= centred.mean(axis=0)
    axes, explained = principal_axes(centred)
    points = centred @ axes.T
    scale = np.abs(points).max()
    return FlatMap(rows, (points / (scale if scale > 0 else 1)).astype(np.float32), explained, num_videos)


def _read(file: Path) -> FlatMap | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            explained = tuple(float(x) for x in kept["explained"])
            return FlatMap(kept["rows"], kept["points"], (explained[0], explained[1]), int(kept["num_videos"]))
    except (OSError, ValueError, KeyError, IndexError):
        return None


def _write(file: Path, made: FlatMap) -> None:
    """Keep a map; a cache folder that cannot be written costs time, not the page."""
    partial = file.with_name(f"{file.stem}.{os.getpid()}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as out:
            np.savez(out, rows=made.rows, points=made.points, explained=made.explained, num_videos=made.num_videos)
        os.replace(partial, file)
    except OSError:
        partial.unlink(missing_ok=True)
