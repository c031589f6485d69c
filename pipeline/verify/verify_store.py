"""Checking every byte of a store against its ledger, and dropping what is bad so that the next run redoes it.

Repairing never invents values. A damaged row becomes `pending` in a new generation of its shard's ledger entry, good
rows of the shard stay; a damaged catalogue file comes back from its copy. What can neither be restored nor made again
by running (the catalogue and its copy both gone) is reported and left alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.errors import ConflictError
from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.verify.findings import Problem, VerifyReport
from pipeline.verify.verify_dataset import DatasetCheck

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


def verify_store(
    store: FeatureStore,
    datasets: Iterable[str] | None = None,
    repair: bool = False,
    on_event: OnEvent = ignore,
) -> VerifyReport:
    """Check a store.

    Parameters
    ----------
    store : FeatureStore
        Opened with mode "a" to repair.
    datasets : iterable of str, optional
        Only these; all by default.
    repair : bool
        Drop what is bad.
    on_event : callable
        Hears StageStarted, Progress, Note and StageFinished of the stage ``verify``.

    Returns
    -------
    VerifyReport

    Raises
    ------
    NotFoundError
        If a named dataset does not exist.
    ConflictError
        If `repair` is asked of a store that was opened for reading.
    """
    if repair and store.mode == "r":
        raise ConflictError(f"expected {store.url} opened with mode 'a' to repair it, found mode 'r'")
    started = time.monotonic()
    names = list(datasets) if datasets is not None else store.datasets()
    checks = [DatasetCheck(store, name, repair=repair) for name in names]
    total = sum(check.num_shards for check in checks)
    on_event(StageStarted("verify", total=total, unit="shards", detail=f"{store.url}: {', '.join(names) or 'empty'}"))
    done = 0
    problems: list[Problem] = []
    for check in checks:
        for _ in check.run():
            done += 1
            on_event(Progress("verify", done=done, total=total))
        problems.extend(check.problems)
        for problem in check.problems:
            on_event(Note("verify", f"{problem.where}: {problem.what}", level="warning"))
    report = VerifyReport(
        problems=tuple(problems),
        num_datasets=len(checks),
        num_shards=done,
        num_rows=sum(check.num_rows for check in checks),
        num_bytes=sum(check.num_bytes for check in checks),
        seconds=time.monotonic() - started,
    )
    on_event(StageFinished("verify", report.summary(), report.seconds))
    return report
