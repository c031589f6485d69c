"""What a check of a store finds, and its report."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import NotFoundError, UnsafeNameError
from pipeline.storage.backend import BytesLike, StorageBackend
from pipeline.storage.spare import keep, set_aside


class Problem(BaseModel):
    """One thing that is wrong, and what was done about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """partial file, damaged catalogue, damaged ledger, missing shard, torn shard, wrong checksum, non-finite, wrong
    count, interrupted write, orphan, outside catalogue, other videos, damaged metadata, damaged copy, damaged
    artifact, damaged index, damaged previews, link."""
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


class Findings:
    """The problems found so far, and the one place where a repair changes bytes: what it replaces is kept.

    Parameters
    ----------
    repair : bool
        Whether anything may be changed.
    """

    def __init__(self, backend: StorageBackend, *, repair: bool) -> None:
        self.backend = backend
        self.repair = repair
        self.problems: list[Problem] = []

    def add(self, kind: str, where: str, what: str, repaired: str = "", rows: int = 0) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind=kind, where=where, what=what, repaired=repaired, rows=rows))

    def put(self, key: str, data: BytesLike) -> str:
        """Write the right bytes over wrong ones; say where those are now."""
        kept = keep(self.backend, key)
        self.backend.put(key, data)
        return f"; what stood there is now {kept}" if kept else ""

    def drop(self, key: str) -> str:
        """Take a file out of the store; say where it is now."""
        kept = set_aside(self.backend, key)
        return f"set aside as {kept}" if kept else "removed"


def read_or_say(backend: StorageBackend, key: str) -> tuple[bytes | None, str]:
    """Return the bytes of a key, or None and why there are none. A storage that does not answer raises."""
    try:
        return backend.read(key), ""
    except NotFoundError:
        return None, "expected this file, found none"
    except UnsafeNameError as err:
        return None, str(err)
