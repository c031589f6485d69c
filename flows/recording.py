"""Every run leaves a record in its store: recipe, outcome, numbers, wall time, who and where."""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from pipeline import FeatureStore
from pipeline.events import Note, OnEvent, ignore
from pipeline.products.history import keep_versions
from pipeline.recipe import Recipe
from pipeline.reports import StageReport
from pipeline.storage.schema import ARTIFACT_KINDS
from pipeline.store.runs import save_run

NUMBER_FIELDS = ("probe", "feature_set", "readout", "embedding", "k", "temperature", "centring", "selection", "top1")


@contextmanager
def recorded(recipe: Recipe, store: FeatureStore, on_event: OnEvent = ignore) -> Iterator[list[StageReport]]:
    """Collect the reports of a run's stages, and write the run down when it ends, also when it fails.

    A run that ends well also removes the versions that the recipe's `keep` lets go. One that ends before its dataset
    exists leaves no record.
    """
    started, begun_at = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    reports: list[StageReport] = []
    outcome = "done"
    try:
        yield reports
        if any(report.is_partial for report in reports):
            outcome = "done in part"
        _let_go(recipe, store, on_event)
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    except BaseException as err:
        outcome = type(err).__name__
        raise
    finally:
        if store.mode != "r" and recipe.dataset.name in store.datasets():
            seconds = time.perf_counter() - started
            save_run(store.backend, recipe.dataset.name, _record(recipe, store, reports, begun_at, seconds, outcome))


def _let_go(recipe: Recipe, store: FeatureStore, on_event: OnEvent) -> None:
    if recipe.keep is None or recipe.dataset.name not in store.datasets():
        return
    if gone := keep_versions(recipe, store.dataset(recipe.dataset.name)):
        freed = sum(one.num_bytes for one in gone) / 2**20
        listed = ", ".join(one.label for one in gone)
        on_event(Note("keep", f"removed {listed} ({freed:.2f} MiB): the recipe says keep: {recipe.keep}"))


def _record(
    recipe: Recipe, store: FeatureStore, reports: Sequence[StageReport], started_at: str, seconds: float, outcome: str
) -> dict[str, Any]:
    ds = store.dataset(recipe.dataset.name)
    rows = [row for report in reports for row in report.details.get("probes", [])]
    newest = [name for name in ds.embedding_sets() if "@" not in name]
    embeddings = [f"embeddings/{name}@{ds.embedding_info(name).version}" for name in newest]
    return {
        "recipe": recipe.name,
        "content": recipe.model_dump(mode="json", by_alias=True),
        "started_at": started_at,
        "seconds": round(seconds, 3),
        "outcome": outcome,
        "did": {report.stage: dict(report.did) for report in reports},
        "snapshot": next((r.snapshot for r in reversed(reports) if r.snapshot), "") or ds.snapshot(),
        "products": embeddings
        + [ds.artifact(kind, name).label for kind in ARTIFACT_KINDS for name in ds.artifacts(kind)],
        "numbers": [{key: row[key] for key in NUMBER_FIELDS if row.get(key) is not None} for row in rows],
        "who": _user(),
        "where": socket.gethostname(),
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user without a name
        return "unknown"
