"""Checking every byte of a store against its ledger, and dropping what is bad so that the next run redoes it.

What must be there is known from several sides: catalogue, ledgers, groups and their copies (:mod:`.inventory`).
Repairing never invents values and destroys nothing. A damaged row becomes `pending` in a new generation of its shard's
ledger entry, good rows of the shard stay; what has a copy comes back from it; every byte that is replaced is kept
under ``_replaced``. What can neither be restored nor made again by running (the catalogue and its copy both gone) is
reported and left alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.errors import ConflictError
from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, ignore
from pipeline.sets.arrays import is_group, parse_group, read_group
from pipeline.storage.schema import STORE_KIND, ZARR_JSON
from pipeline.verify.described import check_described
from pipeline.verify.findings import Findings, VerifyReport
from pipeline.verify.strange_files import check_root_files
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
    findings = Findings(store.backend, repair=repair)
    copied = _check_root(findings)
    names = _names(store, findings, None if datasets is None else list(datasets))
    checks = [DatasetCheck(store, name, findings, copied=copied) for name in names]
    total = sum(check.num_shards for check in checks)
    on_event(StageStarted("verify", total=total, unit="shards", detail=f"{store.url}: {', '.join(names) or 'empty'}"))
    done = 0
    for check in checks:
        for _ in check.run():
            done += 1
            on_event(Progress("verify", done=done, total=total))
    for problem in findings.problems:
        on_event(Note("verify", f"{problem.where}: {problem.what}", level="warning"))
    report = VerifyReport(
        problems=tuple(findings.problems),
        num_datasets=len(checks),
        num_shards=done,
        num_rows=sum(check.num_rows for check in checks),
        num_bytes=sum(check.num_bytes for check in checks),
        seconds=time.monotonic() - started,
    )
    on_event(StageFinished("verify", report.summary(), report.seconds))
    return report


def _check_root(findings: Findings) -> bool:
    """Check what lies beside the datasets; return whether small metadata has copies, which schema 1 did not make."""
    check_root_files(findings)
    backend = findings.backend
    copied = int(read_group(backend, "", STORE_KIND).get("schema_version", 1)) > 1
    check_described(
        findings, ZARR_JSON, lambda data: parse_group(data, "", STORE_KIND, where=backend.url), lock=None, copied=copied
    )
    return copied


def _names(store: FeatureStore, findings: Findings, wanted: list[str] | None) -> list[str]:
    """Return the datasets to check; folders that look like one and have no metadata any more are findings."""
    if wanted is not None:
        return [store.dataset_name(name) for name in wanted]
    names = []
    led_out = {problem.where for problem in findings.problems if problem.kind == "link"}
    for name in store.backend.folders():
        if name.startswith((".", "_")) or name in led_out:
            continue
        if is_group(store.backend, name, "dataset"):
            names.append(name)
        elif {"catalog", "crops", "embeddings"} & set(store.backend.folders(name)):
            what = "a dataset without its zarr.json, and without a copy of it; the next run makes it again"
            findings.add("damaged metadata", f"{name}/{ZARR_JSON}", what)
    return names
