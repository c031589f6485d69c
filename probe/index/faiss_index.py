"""FAISS indexes as values: build one, measure what it finds, write it to a file, read it back after checking it.

Knows vectors and ids; no store. Vectors are unit-length float32, so the inner
product is the cosine. Shape legend: N stored vectors, Q queries, D channels, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import CorruptDataError, InvalidInputError
from pipeline.fingerprint import hash_file
from pipeline.products.index import IndexKind
from probe.threads import load_faiss

Batches = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]
"""Called for each pass over the vectors: yields ids (n,) int64 and unit vectors (n, D) float32."""

HNSW_LINKS = 32
HNSW_BUILD_DEPTH = 200
SEARCH_EFFORTS: Mapping[str, tuple[int, ...]] = {
    "hnsw": (32, 64, 128, 256, 512),
    "ivfpq": (8, 16, 32, 64, 128),
}
"""Tried in this order until the wanted recall is reached: efSearch, and lists probed."""
WANTED_RECALL = 0.95
RECALL_DEPTHS = (1, 10)
NUM_RECALL_QUERIES = 256
PQ_BITS = 8
CANDIDATES_PER_NEIGHBOUR = 10
MIN_CANDIDATES = 100
"""IVF-PQ compares compressed vectors: it proposes so many, and the stored vectors decide among them."""
TRAIN_VECTORS_PER_LIST = 64


@dataclass(frozen=True)
class BuiltIndex:
    """An index in memory and what was measured on it."""

    index: Any
    kind: IndexKind
    num_vectors: int
    dim: int
    recall: dict[str, float] = field(default_factory=dict)
    """``{"1": 0.99, "10": 0.97}``: share of the exact neighbours found, over stored vectors used as queries."""
    recall_compressed: dict[str, float] = field(default_factory=dict)
    """The same of IVF-PQ alone, before the stored vectors put its candidates in order."""
    num_recall_queries: int = 0
    effort: int | None = None
    """efSearch of HNSW or probed lists of IVF-PQ, as chosen by the measured recall; None where exact."""


def build_index(batches: Batches, num_vectors: int, dim: int, kind: IndexKind, *, seed: int = 0) -> BuiltIndex:
    """Build an index and, where it is approximate, measure its recall against the exact scan.

    Parameters
    ----------
    batches : callable
        Makes a fresh iterator over ``(ids (n,) int64, vectors (n, D) float32 of norm 1)``; called one to three
        times, so that memory holds the index and one batch.
    num_vectors : int
        How many vectors the iterator yields in all.
    dim : int
    kind : {"flat", "hnsw", "ivfpq"}
    seed : int
        Draws the queries of the recall measurement and the training vectors of IVF-PQ.

    Raises
    ------
    InvalidInputError
        If there is nothing to index.
    """
    if num_vectors < 1:
        raise InvalidInputError("expected at least one video with valid features to index, found none; run extract")
    faiss = load_faiss()
    inner = _empty_index(faiss, kind, num_vectors, dim)
    if kind == "ivfpq":
        budget = max(inner.nlist * TRAIN_VECTORS_PER_LIST, 1 << PQ_BITS)
        inner.train(sample_vectors(batches, num_vectors, dim, budget, seed))
    index = inner if kind == "ivfpq" else faiss.IndexIDMap2(inner)
    for ids, vectors in batches():
        if len(ids):
            index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))
    assert index.ntotal == num_vectors, (index.ntotal, num_vectors)
    if kind == "flat":
        return BuiltIndex(index, kind, num_vectors, dim)
    return _tuned(index, batches, num_vectors, dim, kind, seed)


def _empty_index(faiss: Any, kind: IndexKind, num_vectors: int, dim: int) -> Any:
    if kind == "flat":
        return faiss.IndexFlatIP(dim)
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = HNSW_BUILD_DEPTH
        return graph
    num_lists = max(1, min(65536, int(4 * np.sqrt(num_vectors)), num_vectors // 39))
    bits = PQ_BITS if num_vectors >= 1 << PQ_BITS else 4
    coder = faiss.IndexIVFPQ(faiss.IndexFlatIP(dim), dim, num_lists, pq_segments(dim), bits, faiss.METRIC_INNER_PRODUCT)
    # FAISS warns on stderr below 39 vectors a centroid; small indexes are measured below instead.
    coder.cp.min_points_per_centroid = coder.pq.cp.min_points_per_centroid = 1
    return coder


def pq_segments(dim: int) -> int:
    """Return how many bytes code one vector: the largest divisor of `dim` that leaves at least 4 channels each."""
    return max(m for m in range(1, max(1, dim // 4) + 1) if dim % m == 0)


def sample_vectors(batches: Batches, num_vectors: int, dim: int, budget: int, seed: int) -> np.ndarray:
    """Draw `budget` vectors (all, if fewer) uniformly in one pass.

    Returns
    -------
    ndarray of shape (min(budget, N), D), float32
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(num_vectors)[:budget])
    sample = np.empty((len(chosen), dim), np.float32)
    seen = 0
    for _ids, vectors in batches():
        inside = chosen[np.searchsorted(chosen, seen) : np.searchsorted(chosen, seen + len(vectors))]
        start = int(np.searchsorted(chosen, seen))
        sample[start : start + len(inside)] = vectors[inside - seen]
        seen += len(vectors)
    return sample


def num_candidates(k: int) -> int:
    """Return how many candidates IVF-PQ proposes for `k` neighbours."""
    return max(MIN_CANDIDATES, CANDIDATES_PER_NEIGHBOUR * k)


def _tuned(index: Any, batches: Batches, num_vectors: int, dim: int, kind: IndexKind, seed: int) -> BuiltIndex:
    queries = sample_vectors(batches, num_vectors, dim, NUM_RECALL_QUERIES, seed + 1)
    # One more than asked: a stored vector finds itself first, which says nothing about recall.
    depth = min(max(RECALL_DEPTHS) + 1, num_vectors)
    exact = exact_search(batches, queries, depth)[1][:, 1:]
    depths = [k for k in RECALL_DEPTHS if k <= exact.shape[1]]
    widest = min(num_candidates(depth), num_vectors) if kind == "ivfpq" else depth
    recall: dict[str, float] = {}
    plain: dict[str, float] = {}
    effort = 0
    for effort in SEARCH_EFFORTS[kind]:
        set_effort(index, kind, effort)
        found = np.ascontiguousarray(index.search(queries, widest)[1])
        recall = plain = {str(k): _recall(found[:, : k + 1], exact[:, :k]) for k in depths}
        if kind == "ivfpq":
            # Put in order by the stored vectors, every exact neighbour among the candidates comes out on top.
            recall = {str(k): _recall(found[:, : num_candidates(k + 1)], exact[:, :k]) for k in depths}
        if not recall or min(recall.values()) >= WANTED_RECALL:
            break
    compressed = plain if kind == "ivfpq" else {}
    return BuiltIndex(index, kind, num_vectors, dim, recall, compressed, len(queries), effort)


def _recall(found_QK: np.ndarray, exact_QK: np.ndarray) -> float:
    """Share of the exact neighbours that are among the found ones (which hold the query itself as well)."""
    hits = (exact_QK[:, :, None] == found_QK[:, None]).any(axis=2)
    return round(float(hits.mean()), 4)


def set_effort(index: Any, kind: str, effort: int) -> None:
    """Set efSearch (HNSW) or the number of probed lists (IVF-PQ)."""
    faiss = load_faiss()
    if kind == "hnsw":
        faiss.downcast_index(index.index).hnsw.efSearch = effort
    elif kind == "ivfpq":
        index.nprobe = min(effort, index.nlist)


def exact_search(batches: Batches, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact neighbours of `queries` among streamed vectors: similarities (Q, K) float32 and ids (Q, K) int64."""
    faiss = load_faiss()
    heap = faiss.ResultHeap(len(queries), k, keep_max=True)
    for ids, vectors in batches():
        if len(ids) == 0:
            continue
        similarities, positions = faiss.knn(
            queries, np.ascontiguousarray(vectors, np.float32), min(k, len(ids)), metric=faiss.METRIC_INNER_PRODUCT
        )
        heap.add_result(similarities, np.ascontiguousarray(ids[positions], np.int64))
    heap.finalize()
    return heap.D, heap.I


def write_index_file(built: BuiltIndex, path: Path) -> None:
    """Write the index and prove that the file holds it.

    FAISS closes the file in a destructor that cannot raise, so a full disk
    would go unseen; the file is read back before anyone relies on it.

    Raises
    ------
    CorruptDataError
        If what is read back has another size or dimension.
    """
    faiss = load_faiss()
    faiss.write_index(built.index, str(path))
    again = _read(path)
    if (again.ntotal, again.d) != (built.num_vectors, built.dim):
        raise CorruptDataError(
            f"expected {built.num_vectors} vectors of {built.dim} channels in {path}, "
            f"read back {again.ntotal} of {again.d}; is the disk full?"
        )


def read_index_file(path: Path, *, sha256: str, num_vectors: int, dim: int, kind: str, effort: int | None) -> Any:
    """Read an index whose bytes have been checked first.

    FAISS deserialises C++ structures; a file that is not byte for byte the one
    that was written must never reach it.

    Raises
    ------
    CorruptDataError
        If the hash, the number of vectors or the dimension is not the recorded one.
    """
    found = hash_file(path)
    if found != sha256:
        raise CorruptDataError(
            f"expected sha256 {sha256} for the index file {path}, found {found}; "
            "the file was damaged or replaced: run `scale index` to build it again"
        )
    index = _read(path)
    if (index.ntotal, index.d) != (num_vectors, dim):
        raise CorruptDataError(
            f"expected {num_vectors} vectors of {dim} channels in the index {path}, found {index.ntotal} of {index.d}; "
            "run `scale index` to build it again"
        )
    if effort is not None:
        set_effort(index, kind, effort)
    return index


def _read(path: Path) -> Any:
    faiss = load_faiss()
    try:
        return faiss.read_index(str(path))
    except RuntimeError as err:
        raise CorruptDataError(f"expected a FAISS index in {path}, found something unreadable: {err}") from err
