"""What a reader keeps of a shard that it has opened."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.sets.ledger_entry import LedgerEntry
from pipeline.sets.mapped import ShardRows


class OpenShard:
    """The arrays of one shard that were opened, and which of its rows were found good."""

    def __init__(self, entry: LedgerEntry, hidden: np.ndarray) -> None:
        self.entry = entry
        self.arrays: dict[str, ShardRows] = {}
        self.present = entry.num_valid > 0
        if len(hidden):
            self.present[hidden] = False
        self.all_present = bool(self.present.all())
        self.checked: dict[str, np.ndarray] = {}
        """Of each array that was asked for; rows without values need no check: they read as masked zeros."""
        self.all_checked: set[str] = set()

    @property
    def num_bytes(self) -> int:
        """Memory of the shards that are not mapped."""
        return sum(rows.num_bytes for rows in self.arrays.values())


class Part(NamedTuple):
    """Some of the rows that were asked for, all in one shard."""

    places: slice
    """Which of them."""
    opened: OpenShard | None
    """None where nothing of the shard has values."""
    local: np.ndarray
    """Their numbers inside the shard."""
