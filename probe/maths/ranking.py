"""The one rule of who is nearer: similarities rounded to six decimals, equal ones by row."""

from __future__ import annotations

import numpy as np

SIMILARITY_DECIMALS = 6
"""Finer differences are below what float32 sums and float32 features can carry."""
EXTRA_CANDIDATES = 4
"""Fetched beyond K by a search in float32, whose order may differ from that of the rounded values."""


def rounded(similarities: np.ndarray) -> np.ndarray:
    """Return similarities as they are compared and reported, float64."""
    return similarities.astype(np.float64, copy=False).round(SIMILARITY_DECIMALS)


def best_first(similarity_QN: np.ndarray, row_QN: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `k` best of each line, best first; of equal similarities the lower row comes first.

    Parameters
    ----------
    similarity_QN : ndarray
        Rounded, see :func:`rounded`.
    row_QN : ndarray, int64
    k : int
        More than N gives N.
    """
    order = np.lexsort((row_QN, -similarity_QN), axis=1)[:, :k]
    return np.take_along_axis(similarity_QN, order, 1), np.take_along_axis(row_QN, order, 1)
