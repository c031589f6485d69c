"""How sure a number is: intervals and paired comparisons, both with the group as the unit.

Videos cut from one source rise and fall together; resampling single rows
would make every interval too narrow. Shape legend: Q test rows, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2000
NUM_PERMUTATIONS = 9999
MAX_EXACT_GROUPS = 13
"""Up to here all 2^G sign flips are tried."""
RESAMPLES_PER_BLOCK = 256
CONFIDENCE = 0.95


def _group_sums(values_Q: np.ndarray, groups: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    _, group_of_row = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return np.bincount(group_of_row, weights=values_Q), np.bincount(group_of_row).astype(np.float64)


def bootstrap_interval(
    values_Q: np.ndarray, groups: Sequence[str], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean, resampling whole groups with replacement.

    Parameters
    ----------
    values_Q : ndarray of shape (Q,)
        Hits (0 or 1), or a figure per row.
    groups : sequence of str, length Q

    Returns
    -------
    low, high : float
        (0, 1) without rows. Where all rows have the value 0 or all have 1,
        resampling sees no spread and would claim certainty: the exact
        (Clopper-Pearson) bound with G trials stands there instead.
    """
    values = np.asarray(values_Q, np.float64)
    if len(values) == 0:
        return 0.0, 1.0
    sums, counts = _group_sums(values, groups)
    tail = (1 - CONFIDENCE) / 2
    if np.all(values == values[0]) and values[0] in (0.0, 1.0):
        reach = tail ** (1 / len(sums))
        return (0.0, 1 - reach) if values[0] == 0 else (reach, 1.0)
    means = np.empty(num_resamples)
    rng = np.random.default_rng(seed)
    share = np.full(len(sums), 1 / len(sums))
    for start in range(0, num_resamples, RESAMPLES_PER_BLOCK):
        stop = min(start + RESAMPLES_PER_BLOCK, num_resamples)
        times = rng.multinomial(len(sums), share, size=stop - start)
        means[start:stop] = (times @ sums) / (times @ counts)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Two results on the same rows."""

    difference: float
    """Mean of b minus mean of a."""
    interval: tuple[float, float]
    p_value: float
    num_groups: int


def compare_paired(
    a_Q: np.ndarray, b_Q: np.ndarray, groups: Sequence[str], *, seed: int = 0, num_permutations: int = NUM_PERMUTATIONS
) -> Paired:
    """Compare two results row by row.

    Parameters
    ----------
    a_Q, b_Q : ndarray of shape (Q,)
        Hits of the two, in the same order of rows.
    groups : sequence of str, length Q

    Returns
    -------
    Paired
        The p-value is that of the two-sided test that flips the sign of whole
        groups' differences: exact up to 13 groups, else from random flips with
        (1 + extreme) / (1 + flips). 1 without rows.
    """
    delta = np.asarray(b_Q, np.float64) - np.asarray(a_Q, np.float64)
    if len(delta) == 0:
        return Paired(0.0, (-1.0, 1.0), 1.0, 0)
    sums, _ = _group_sums(delta, groups)
    observed = abs(sums.sum())
    moving = sums[sums != 0]
    # A hair below the observed sum: equal sums in another order must count as equally extreme.
    limit = observed - 1e-9
    if len(moving) <= MAX_EXACT_GROUPS:
        signs = 1 - 2 * ((np.arange(2 ** len(moving))[:, None] >> np.arange(len(moving))) & 1)
        p_value = float((np.abs(signs @ moving) >= limit).mean())
    else:
        rng = np.random.default_rng(seed)
        extreme = 0
        for start in range(0, num_permutations, RESAMPLES_PER_BLOCK):
            size = min(RESAMPLES_PER_BLOCK, num_permutations - start)
            flips = rng.integers(0, 2, (size, len(moving)), dtype=np.int8) * 2 - 1
            extreme += int((np.abs(flips @ moving) >= limit).sum())
        p_value = (1 + extreme) / (1 + num_permutations)
    if np.all(delta == 0):
        interval = (0.0, 0.0)
    else:
        interval = bootstrap_interval(delta, groups, seed=seed) if len(sums) > 1 else (-1.0, 1.0)
    return Paired(float(delta.mean()), interval, p_value, len(sums))
