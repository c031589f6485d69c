"""Where things come from: what was run, and what a report, a number or an index is made of."""

from __future__ import annotations

from typing import Any

from flows.serve.stores import HeldDataset
from pipeline.errors import CorruptDataError
from pipeline.products.lineage import Origin, lineage
from pipeline.store.runs import list_runs


def last_runs(held: HeldDataset, count: int = 10) -> list[dict[str, Any]]:
    """Return what was run last, the newest first; a record that is damaged says so."""
    try:
        runs = list_runs(held.dataset.backend, held.dataset.name)[-count:]
    except CorruptDataError as error:
        return [{"id": "", "recipe": str(error), "started_at": "", "seconds": None, "outcome": "damaged", "did": ""}]
    return [
        {"id": run.id, "recipe": run.recipe, "started_at": run.started_at, "seconds": run.seconds,
         "outcome": run.outcome, "did": ", ".join(run.did)}
        for run in reversed(runs)
    ]  # fmt: skip


def origin(held: HeldDataset, thing: str) -> Origin:
    """Return what a thing is made of, down to the videos.

    Raises
    ------
    InvalidInputError, NotFoundError
        If there is no such thing.
    """
    return lineage(held.dataset, thing)
