"""Soaks that run in pieces: what became of each round is written down, and the next call goes on after the last.

``SCALE_SOAK_STATE=FOLDER`` keeps a small JSON file a soak there, ``SCALE_SOAK_SECONDS=N`` ends a piece after so long.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path


class Tally:
    """What became of each kind of thing; every kind counts its `rounds`."""

    def __init__(self, counts: dict[str, dict[str, int]] | None = None) -> None:
        self.counts: dict[str, Counter[str]] = defaultdict(Counter, {k: Counter(c) for k, c in (counts or {}).items()})

    @property
    def num_rounds(self) -> int:
        return sum(counts["rounds"] for counts in self.counts.values())

    def total(self) -> Counter[str]:
        return sum(self.counts.values(), Counter())

    def table(self) -> str:
        total = self.total()
        columns = ["rounds", *sorted(set(total) - {"rounds", "wrong"}), "wrong"]
        lines = [f"{'kind':24}" + "".join(f"{column:>10}" for column in columns)]
        lines += [
            f"{kind:24}" + "".join(f"{counts[column]:>10}" for column in columns)
            for kind, counts in [*sorted(self.counts.items()), ("all", total)]
        ]
        return "\n".join(lines)


def soak(name: str, rounds: int, one_round: Callable[[int, Tally], None]) -> Tally:
    """Run the rounds that are left, print the table, return it.

    Parameters
    ----------
    one_round : callable
        ``one_round(number, tally)``; counts exactly one of `rounds`, raises where something is wrong.
    """
    folder = os.environ.get("SCALE_SOAK_STATE")
    state = None if folder is None else Path(folder) / f"{name}.json"
    stop = time.monotonic() + float(os.environ.get("SCALE_SOAK_SECONDS", "inf"))
    tally = Tally(json.loads(state.read_text()) if state is not None and state.exists() else None)
    begun = time.monotonic()
    before = tally.num_rounds
    while tally.num_rounds < rounds and time.monotonic() < stop:
        one_round(tally.num_rounds, tally)
        if state is not None:
            state.write_text(json.dumps(tally.counts))
    done = tally.num_rounds - before
    each = (time.monotonic() - begun) / max(done, 1)
    print(f"\n{name}: {tally.num_rounds} of {rounds} rounds, {each:.1f} s each\n{tally.table()}")
    return tally
