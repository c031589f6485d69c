"""How the network ran that made a shard, as its ledger entry says, so that a feature set is not made in two ways.

Compiling changes features by less than 1e-4 and pays for much work only. The first run of a set decides; whoever makes
shards beside those that are there, however few, runs the network as they were made.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from pipeline.errors import CorruptDataError, NotFoundError, SnapshotChangedError

if TYPE_CHECKING:
    from extract.targets import ResolvedTarget
    from pipeline import Dataset

NETWORK = "network"
"""Name among an entry's versions; its values are COMPILED and PLAIN. Entries of before have none."""
COMPILED, PLAIN = "compiled", "plain"


def made_by_compiled(dataset: Dataset, targets: Iterable[ResolvedTarget]) -> dict[str, bool]:
    """Return whether each backbone was compiled when it made what a dataset has; without those of which nothing says.

    The first shard of the first feature set that says counts.
    """
    found: dict[str, bool] = {}
    for target in targets:
        said = _said(dataset, target)
        if said is not None:
            found.setdefault(target.target.backbone, said == COMPILED)
    return found


def _said(dataset: Dataset, target: ResolvedTarget) -> str | None:
    with suppress(NotFoundError, CorruptDataError, SnapshotChangedError):
        ledger = dataset.ledger(target.crops, target.feature_set)
        entry = ledger.passing(min(ledger.generations, default=-1))
        return None if entry is None else entry.versions.get(NETWORK)
    return None
