"""What the lines of ledger entries must be, of one entry or of all those that a row group of a pack holds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.status import VideoStatus
from pipeline.storage.schema import PENDING

_STATUSES = frozenset(VideoStatus) | {PENDING}


def check_lines(row: np.ndarray, expected: np.ndarray, num_valid: np.ndarray, statuses: Iterable[str]) -> None:
    """Raise ValueError unless lines can be those of entries.

    Parameters
    ----------
    row, num_valid : ndarray
        These columns of the lines.
    expected : ndarray
        Which rows they are, by what their entries say.
    statuses : iterable of str
        All that occur.
    """
    if not np.array_equal(row, expected):
        raise ValueError("its rows are not those it says")
    if len(num_valid) and num_valid.min() < 0:
        raise ValueError("a row with fewer than no valid crops")
    if unknown := set(statuses) - _STATUSES:
        raise ValueError(f"unknown statuses {', '.join(sorted(unknown))}")
