"""Whether the vectors of many videos are all the same: nothing can be read from them then."""

from __future__ import annotations

import numpy as np

MIN_SPREAD = 1e-3
"""Vectors whose deviation from their mean is less than this share of their length are all the same."""


def doubts_about_vectors(count: int, total: np.ndarray, squares: np.ndarray) -> tuple[str, ...]:
    """Say where embeddings have collapsed to one point.

    Parameters
    ----------
    count : int
    total, squares : ndarray
        (E,) sums over videos of the vectors and of their squares.
    """
    if count < 2:
        return ()
    mean_square = float(squares.sum()) / count
    spread = max(mean_square - float(np.square(total / count).sum()), 0.0)
    if mean_square > 0 and spread >= MIN_SPREAD**2 * mean_square:
        return ()
    share = (spread / mean_square) ** 0.5 if mean_square else 0.0
    return (
        f"the embeddings of {count} videos have collapsed: they differ by {share:.1e} of their length; "
        "nothing can be read from them but noise",
    )
