"""How the network ran that made a feature set, so that a set is not made in two ways.

Converting and compiling change features by less than 1e-4 and pay for much work only. Who begins a set decides and
says so in the set's own attributes, which are written once; of workers that begin it at the same time one is first, and
the others do as it says. In sets that were begun without such a record the first shard's ledger entry decides.
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
"""Name among an entry's versions: how the network really ran, see `Backbone.way`. Entries of before have none."""


def ways_of(dataset: Dataset, targets: Iterable[ResolvedTarget]) -> dict[str, str]:
    """Return how each backbone ran when it made what a dataset has; without those of which nothing says.

    The first feature set that says counts.
    """
    found: dict[str, str] = {}
    for target in targets:
        said = _said(dataset, target)
        if said is not None:
            found.setdefault(target.target.backbone, said)
    return found


def _said(dataset: Dataset, target: ResolvedTarget) -> str | None:
    with suppress(NotFoundError, CorruptDataError, SnapshotChangedError):
        recorded = dataset.feature_info(target.crops, target.feature_set).network
        if recorded is not None:
            return recorded
        ledger = dataset.ledger(target.crops, target.feature_set)
        entry = ledger.passing(min(ledger.generations, default=-1))
        return None if entry is None else entry.versions.get(NETWORK)
    return None
