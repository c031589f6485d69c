"""What a query of somebody else may cost: seconds and memory, for who answers strangers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Bounds:
    """Of one query; None: as much as the machine gives."""

    seconds: float | None = None
    memory_bytes: int | None = None


_UNBOUNDED = Bounds()
_BOUNDS: ContextVar[Bounds] = ContextVar("query_bounds", default=_UNBOUNDED)


@contextmanager
def bounded(bounds: Bounds) -> Iterator[None]:
    """Hold every query of this context to `bounds`; one that reaches them ends with a QueryError."""
    token = _BOUNDS.set(bounds)
    try:
        yield
    finally:
        _BOUNDS.reset(token)


def memory_setting() -> dict[str, str]:
    """Return what makes a DuckDB database hold itself to this context's memory."""
    size = _BOUNDS.get().memory_bytes
    return {} if size is None else {"memory_limit": f"{size // 1024} KiB"}


@contextmanager
def held_to_time(connection: Any) -> Iterator[None]:
    """Stop what a DuckDB connection does when this context's seconds are over."""
    bounds = _BOUNDS.get()
    if bounds.seconds is None:
        yield
        return
    alarm = threading.Timer(bounds.seconds, connection.interrupt)
    alarm.daemon = True
    alarm.start()
    try:
        yield
    finally:
        alarm.cancel()


def describe_interruption() -> str:
    """Return what a query that was stopped is told."""
    return f"expected a query of at most {_BOUNDS.get().seconds:g} s, found a longer one; ask for less"
