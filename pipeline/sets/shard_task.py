"""One shard that a writer has something to do in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class ShardTask:
    """One shard that has something to do."""

    shard: int
    rows: np.ndarray
    """(n,) int64, ascending: the rows to compute."""
    row_start: int
    row_stop: int
    """The shard's rows ``[row_start, row_stop)``, done and to do."""
    generation: int
    """Of the ledger entry that will be written."""
    reason: str
    """new, appended or retry."""

    def __len__(self) -> int:
        return len(self.rows)
