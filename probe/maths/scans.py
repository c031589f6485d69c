"""The first, float32 pass of an exact search: by FAISS, or by matrix products of torch where these are faster.

Nearly all of a large search is one matrix product. FAISS's wheel carries an OpenBLAS of its own, torch another
library, and which of the two is faster depends on the processor and on the number of threads: on an Intel Xeon
(Sapphire Rapids) FAISS was with one thread and torch with eight, by a fifth either way. So a large search measures
both on a few of its own rows, once a process. What comes out is scored again by who asks, so that it is the same.
Shape legend: Q queries, N gallery rows, D channels, K best.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from probe.threads import load_faiss

if TYPE_CHECKING:
    import torch

QUERIES_PER_PRODUCT: Final = 1024
ROWS_PER_PRODUCT: Final = 4096
"""16 MB of scores, which stay in the cache until the best of them are picked."""
MIN_PRODUCTS: Final = 10**11
"""Multiplications from which on it is worth measuring: a core takes a second or more for them."""
MAX_K: Final = 256
"""With more, picking is what takes the time, which FAISS does better."""
_TRIED_QUERIES, _TRIED_ROWS, _TRIES = 1024, 4096, 2
MIN_GAIN: Final = 1.05

Scan = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From queries (Q, D), gallery (N, D) and K <= N: inner products (Q, K), float32, descending, and their rows, int64."""

_gains: dict[tuple[int, int], float] = {}
"""How many times as fast as FAISS torch was, by the threads of both."""


def scan_with_faiss(queries_QD: np.ndarray, gallery_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """See :data:`Scan`."""
    faiss = load_faiss()
    scores, rows = faiss.knn(queries_QD, gallery_ND, k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows


def scan_with_torch(
    queries_QD: np.ndarray,
    gallery_ND: np.ndarray,
    k: int,
    *,
    queries_at_once: int = QUERIES_PER_PRODUCT,
    rows_at_once: int = ROWS_PER_PRODUCT,
) -> tuple[np.ndarray, np.ndarray]:
    """See :data:`Scan`; what is multiplied at once changes nothing but the time and the memory it takes."""
    import torch

    queries, gallery = tensor_of(queries_QD), tensor_of(gallery_ND)
    scores, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    memory = torch.empty(min(queries_at_once, len(queries)) * min(rows_at_once, len(gallery)))
    for start in range(0, len(queries), queries_at_once):
        part = queries[start : start + queries_at_once]
        best, at = torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)
        for first in range(0, len(gallery), rows_at_once):
            block = gallery[first : first + rows_at_once]
            product = torch.mm(part, block.T, out=memory[: len(part) * len(block)].view(len(part), len(block)))
            top = product.topk(min(k, len(block)), dim=1)
            best, at = torch.cat([best, top.values], 1), torch.cat([at, top.indices + first], 1)
            if first:
                best, places = best.topk(min(k, best.shape[1]), dim=1)
                at = at.gather(1, places)
        scores[start : start + len(part)], rows[start : start + len(part)] = best.numpy(), at.numpy()
    return scores, rows


def pick_scan(queries_QD: np.ndarray, gallery_ND: np.ndarray, k: int) -> Scan:
    """Return the faster way for such a search; a small one is FAISS's without measuring."""
    if k > MAX_K or len(queries_QD) * gallery_ND.size < MIN_PRODUCTS:
        return scan_with_faiss
    gain = torch_gain(queries_QD[:_TRIED_QUERIES], gallery_ND[:_TRIED_ROWS], k)
    return scan_with_torch if gain > MIN_GAIN else scan_with_faiss


def torch_gain(queries_QD: np.ndarray, gallery_ND: np.ndarray, k: int) -> float:
    """Return how many times as fast as FAISS torch scans; measured on these rows, or remembered of this process."""
    import torch

    threads = (torch.get_num_threads(), load_faiss().omp_get_max_threads())
    if threads not in _gains:
        taken: dict[Scan, float] = {}
        for _ in range(_TRIES):
            for scan in (scan_with_faiss, scan_with_torch):
                start = time.perf_counter()
                scan(queries_QD, gallery_ND, min(k, len(gallery_ND)))
                taken[scan] = min(taken.get(scan, float("inf")), time.perf_counter() - start)
        _gains[threads] = taken[scan_with_faiss] / taken[scan_with_torch]
    return _gains[threads]


def describe_scans(dim: int = 512) -> str:
    """Return in one line who scans here, and by how much faster."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_TRIED_ROWS, dim), np.float32)
    gain = torch_gain(rows[:_TRIED_QUERIES], rows, 24)
    if gain > MIN_GAIN:
        return f"large exact searches scan with torch, {gain:.2f}x FAISS"
    return f"large exact searches scan with FAISS, {1 / gain:.2f}x torch"


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """Return an array's memory as a tensor that is only read."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(array)
