"""What one request may cost: bounds on time, rows, bytes and how many heavy answers are made at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import TransientError


class Limits(BaseModel):
    """Bounds of the service. What does not fit is refused by name, never cut without a word."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    max_rows: int = Field(10_000, ge=1)
    """Rows of one JSON answer; Arrow streams are bounded by `max_answer_bytes` alone."""
    max_answer_bytes: int = Field(1 << 30, ge=1)
    """Bytes of features or embeddings in one answer."""
    max_upload_bytes: int = Field(512 << 20, ge=1)
    """Bytes of a video that is searched for."""
    query_s: float = Field(20.0, gt=0)
    """Seconds an SQL condition or query may run."""
    query_bytes: int = Field(1 << 30, ge=1 << 20)
    """Memory of an SQL condition or query."""
    upload_s: float = Field(120.0, gt=0)
    """Seconds until an upload must have arrived."""
    wait_s: float = Field(15.0, gt=0)
    """Seconds a request waits for its turn before it is told to come again."""
    heavy: int = Field(4, ge=1)
    """Heavy answers (SQL, features, maps) that are made at the same time; searches by a new video come one by one."""


class ServiceBusyError(TransientError):
    """All turns are taken; the same request may succeed a little later."""


class Turns:
    """A bounded number of places; who finds none within `wait_s` is told so."""

    def __init__(self, places: int, wait_s: float, what: str) -> None:
        self._semaphore = threading.BoundedSemaphore(places)
        self._wait_s, self._what = wait_s, what

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a place.

        Raises
        ------
        ServiceBusyError
            If none became free in time.
        """
        if not self._semaphore.acquire(timeout=self._wait_s):
            raise ServiceBusyError(
                f"expected a free place for {self._what} within {self._wait_s:g} s, found all taken; ask again later"
            )
        try:
            yield
        finally:
            self._semaphore.release()
