"""CVRL's temporal interval sampler (Qian et al., CVPR 2021): how far apart two crops of a video start."""

from __future__ import annotations

import numpy as np

from extract.crops.draws import Draws

_BISECTIONS = 60


def interval_quantile(probability: np.ndarray, exponent: float) -> np.ndarray:
    """Return u = delta / T with ``F(u) = ((a + 1) u - u^(a + 1)) / a = probability``.

    The density is proportional to ``1 - u^a``: near pairs are likelier. For
    a = 1 the closed form is ``1 - sqrt(1 - p)``, and the pair is the same in
    law as two independent uniform starts.

    Parameters
    ----------
    probability : ndarray, float64
        In [0, 1).
    exponent : float
        a > 0.
    """
    if exponent == 1.0:
        return 1.0 - np.sqrt(1.0 - probability)
    low, high = np.zeros_like(probability), np.ones_like(probability)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = ((exponent + 1) * middle - middle ** (exponent + 1)) / exponent < probability
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def paired_starts(limit: float, exponent: float, size: int, draws: Draws) -> np.ndarray:
    """Return `size` starts in [0, limit): crops 2i and 2i + 1 are a pair, in random order.

    Parameters
    ----------
    limit : float
        T: the latest start (excluded).
    exponent : float
        CVRL's a.
    size : int
        An odd one leaves the last crop without a partner: uniform.
    draws : Draws
    """
    num_pairs = (size + 1) // 2
    delta = limit * interval_quantile(draws.unit(num_pairs), exponent)
    first = draws.unit(num_pairs) * (limit - delta)
    pairs = np.stack([first, first + delta], axis=1)
    swap = draws.bernoulli(0.5, num_pairs)
    pairs[swap] = pairs[swap][:, ::-1]
    starts = pairs.reshape(-1)[:size]
    if size % 2:
        starts[-1] = draws.unit(1)[0] * limit
    return np.minimum(starts, np.nextafter(limit, 0.0))
