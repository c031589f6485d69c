"""Checking every byte of a store against its ledger, and dropping what is bad so that the next run redoes it.

Repairing never invents values. A damaged row becomes `pending` in a new generation of its shard's ledger entry, good
rows of the shard stay; a damaged catalogue file comes back from its copy. What can neither be restored nor made again
by running (the catalogue and its copy both gone) is reported and left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from pipeline.events import Note, OnEvent, Progress, StageFinished, StageStarted, ignore

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


class Problem(BaseModel):
    """One thing that is wrong, and what was done about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """partial file, damaged catalogue, damaged ledger, missing shard, torn shard, wrong checksum, non-finite,
    wrong count, interrupted write, orphan, outside catalogue, damaged metadata, damaged artifact."""
    where: str
    """Key in the store."""
    what: str
    rows: int = Field(default=0, description="Rows whose values are lost")
    repaired: str = ""
    """What `--repair` did; empty where nothing was."""


class VerifyReport(BaseModel):
    """What :func:`verify_store` found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    problems: tuple[Problem, ...] = ()
    num_datasets: int = 0
    num_shards: int = 0
    """Shards whose bytes were checked."""
    num_rows: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong (any more)."""
        return all(problem.repaired for problem in self.problems)

    def summary(self) -> str:
        """One line."""
        checked = (
            f"checked {self.num_rows} rows in {self.num_shards} shards ({self.num_bytes / 1e6:.1f} MB) in "
            f"{self.seconds:.1f} s"
        )
        if not self.problems:
            return f"no problem found; {checked}"
        fixed = sum(bool(p.repaired) for p in self.problems)
        lost = sum(p.rows for p in self.problems)
        rest = "" if self.is_clean else "; `scale verify --repair` drops what is bad, the next run redoes it"
        return f"{len(self.problems)} problem(s), {fixed} repaired, {lost} row(s) lost; {checked}{rest}"

    def table(self) -> Sequence[dict[str, object]]:
        """Rows for people."""
        return [
            {"kind": p.kind, "where": p.where, "rows": p.rows, "repaired": p.repaired or "no", "what": p.what}
            for p in self.problems
        ]


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
    import time

    from pipeline.errors import ConflictError
    from pipeline.verify.verify_dataset import DatasetCheck

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
