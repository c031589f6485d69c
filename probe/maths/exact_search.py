"""Exact nearest neighbours by cosine similarity, the same on every machine and in every batch size.

A scan in float32 (see `probe.maths.scans`) finds a few candidates of each
query, which are then scored again in float64 and rounded. Without
that, float32 sums depend on the block a row falls into, so that two copies of
one video may come out in either order. Shape legend: Q queries, N gallery
rows, D channels, K neighbours.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.compute.threads import num_threads
from pipeline.errors import InvalidInputError, ShapeMismatchError
from probe.blas_kernel import loaded_kernel
from probe.maths.ranking import EXTRA_CANDIDATES, best_first, rounded
from probe.maths.scans import describe_scans, pick_scan, tensor_of
from probe.threads import load_faiss

QUERIES_PER_SCAN = 2048
QUERIES_PER_RESCORING = 8
"""Their candidates stay in the cache."""
QUERIES_PER_THREAD = 64
"""At least: fewer take less time than a thread."""
MAX_RESCORING_BYTES = 1 << 28
"""Of the candidates of all threads: with many cores and neighbours fewer threads score."""
QUERIES_PER_EXACT_SCAN = 32


@dataclass(frozen=True)
class Neighbours:
    """The K best gallery rows of every query."""

    similarity_QK: np.ndarray
    """float64, descending along K, rounded to 6 decimals."""
    index_QK: np.ndarray
    """int64 gallery rows. Of equal similarities the lower row comes first."""

    @property
    def k(self) -> int:
        """Neighbours a query."""
        return int(self.index_QK.shape[1])


def unit_vectors(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the rows with L2 norm 1, as contiguous float32; rows of norm 0 stay 0."""
    vectors = np.asarray(vectors_ND, np.float32)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(norms > 0, norms, 1))


def nearest(
    queries_QD: np.ndarray, gallery_ND: np.ndarray, k: int, *, queries_per_scan: int = QUERIES_PER_SCAN
) -> Neighbours:
    """Find the `k` gallery rows with the highest inner product, exactly.

    Parameters
    ----------
    queries_QD, gallery_ND : ndarray, float32
        Rows of norm 1 (or 0), finite.
    k : int
        More than N gives N.
    queries_per_scan : int
        How many are searched at once: what memory it takes, and nothing else, depends on it.

    Returns
    -------
    Neighbours
        Ordered by (similarity rounded to 6 decimals, descending; gallery row, ascending).

    Raises
    ------
    ShapeMismatchError
        If the channels differ.
    InvalidInputError
        If the gallery is empty, `k` is below 1, or a value is not finite.
    """
    queries, gallery = _checked(queries_QD, gallery_ND, k)
    k = min(k, len(gallery))
    num_candidates = min(k + EXTRA_CANDIDATES, len(gallery))
    similarity = np.zeros((len(queries), k))
    index = np.zeros((len(queries), k), np.int64)
    scan = pick_scan(queries, gallery, num_candidates)
    # Rounding of a float32 sum over D products of unit vectors; generous.
    margin = 1e-5 + 4e-9 * gallery.shape[1]
    rescore = _Rescoring(gallery, num_candidates, min(QUERIES_PER_RESCORING, queries_per_scan))
    for start in range(0, len(queries), queries_per_scan):
        block = slice(start, min(start + queries_per_scan, len(queries)))
        coarse, candidates = scan(queries[block], gallery, num_candidates)
        scores, ordered = best_first(rounded(rescore(queries[block], candidates)), candidates, k)
        similarity[block], index[block] = scores, ordered
        if num_candidates < len(gallery):
            # A row that was not fetched scores at most the last coarse score plus rounding. Where that could
            # still reach place k (many near-copies), the query is scored against the whole gallery.
            is_open = coarse[:, -1] + margin >= scores[:, k - 1]
            for part in _blocks(np.flatnonzero(is_open) + start, QUERIES_PER_EXACT_SCAN):
                similarity[part], index[part] = _scan_all(queries[part], gallery, k)
    return Neighbours(similarity, index)


def _checked(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    queries = np.ascontiguousarray(queries, np.float32)
    gallery = np.ascontiguousarray(gallery, np.float32)
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ShapeMismatchError(
            f"expected queries (Q, D) and gallery (N, D) with the same D, found {queries.shape} and {gallery.shape}"
        )
    if k < 1:
        raise InvalidInputError(f"expected k of at least 1, found {k}")
    if len(gallery) == 0:
        raise InvalidInputError("expected at least one gallery row to search in, found none")
    for name, array in (("queries", queries), ("gallery", gallery)):
        # A sum of rows of norm 1 is finite unless a value is not; one pass at the speed of memory. NumPy's BLAS would
        # keep its threads spinning for a while, on the cores that the scan needs next.
        if not math.isfinite(float(tensor_of(array).sum())) and not np.isfinite(array).all():
            raise InvalidInputError(f"expected finite {name}, found NaN or infinity; exclude such rows first")
    return queries, gallery


class _Rescoring:
    """Inner products of queries with a few gallery rows each, float64; equal rows get equal ones.

    The memory is kept: taken anew for every few queries it cost more, in page faults, than the arithmetic.
    """

    def __init__(self, gallery_ND: np.ndarray, num_candidates: int, at_once: int) -> None:
        self._gallery, self._at_once = gallery_ND, at_once
        per_thread = at_once * num_candidates * gallery_ND.shape[1]
        at_most = MAX_RESCORING_BYTES // (per_thread * (np.float32().nbytes + np.float64().nbytes))
        shape = (max(1, min(num_threads(), at_most)), at_once, num_candidates, gallery_ND.shape[1])
        self._taken, self._exact = np.empty(shape, np.float32), np.empty(shape)

    def __call__(self, queries_QD: np.ndarray, candidates_QK: np.ndarray) -> np.ndarray:
        scores, queries = np.empty(candidates_QK.shape), queries_QD.astype(np.float64)
        num_parts = min(len(self._taken), -(-len(queries) // QUERIES_PER_THREAD))
        edges = np.linspace(0, len(queries), num_parts + 1).astype(int).tolist()
        arguments = range(num_parts), edges[:-1], edges[1:]
        if num_parts < 2:
            for number, start, stop in zip(*arguments, strict=True):
                self._score(number, slice(start, stop), queries, candidates_QK, scores)
            return scores
        with ThreadPoolExecutor(num_parts, thread_name_prefix="rescore") as pool:
            list(pool.map(lambda n, a, b: self._score(n, slice(a, b), queries, candidates_QK, scores), *arguments))
        return scores

    def _score(
        self, number: int, which: slice, queries: np.ndarray, candidates: np.ndarray, scores: np.ndarray
    ) -> None:
        """Score some of the queries with the memory of this number; NumPy lets others run meanwhile."""
        taken, exact = self._taken[number], self._exact[number]
        for start in range(which.start, which.stop, self._at_once):
            part = slice(start, min(start + self._at_once, which.stop))
            n = part.stop - start
            np.take(self._gallery, candidates[part], axis=0, out=taken[:n], mode="clip")
            exact[:n] = taken[:n]
            np.einsum("qkd,qd->qk", exact[:n], queries[part], out=scores[part])


def _scan_all(queries_QD: np.ndarray, gallery_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = similarities(queries_QD, gallery_ND)
    return best_first(scores, np.broadcast_to(np.arange(scores.shape[1]), scores.shape), k)


def similarities(queries_QD: np.ndarray, gallery_ND: np.ndarray) -> np.ndarray:
    """Return all inner products (Q, N), float64, rounded as everywhere here. For blocks of queries."""
    scores = np.empty((len(queries_QD), len(gallery_ND)))
    queries = queries_QD.astype(np.float64)
    for part in range(0, len(gallery_ND), 1 << 14):
        scores[:, part : part + (1 << 14)] = queries @ gallery_ND[part : part + (1 << 14)].astype(np.float64).T
    return rounded(scores)


def _blocks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def describe_faiss() -> str:
    """Return FAISS's version, instruction set, matrix kernel and threads in one line."""
    faiss = load_faiss()
    kernel = loaded_kernel()
    products = "" if kernel is None else f", matrix products by OpenBLAS's {kernel} kernel"
    options = faiss.get_compile_options().strip()
    return f"{faiss.__version__} ({options}){products}, {faiss.omp_get_max_threads()} threads; {describe_scans()}"
