"""What a check of a store finds, and its report."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field


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
    """What :func:`pipeline.verify.verify_store.verify_store` found."""

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
