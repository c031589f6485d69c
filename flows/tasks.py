"""The project's `task`: retries only what may succeed next time, and never trusts a result cache.

The store knows what is done (its ledger), so Prefect's cache stays off: a
cached record says that someone returned a value once, not that the bytes are
still there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import task as prefect_task
from prefect.cache_policies import NO_CACHE

from pipeline.errors import TransientError
from pipeline.outside import from_outside

BACKOFF_S = [5, 20, 60]
"""Exponential, capped: a store or a GPU that is gone for longer needs a person, or the next scheduled run."""


def is_transient(task: Any, task_run: Any, state: Any) -> bool:
    """Whether trying again can help. A corrupt video or a wrong recipe is never retried."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, BaseException) and isinstance(from_outside(error), TransientError)


task: Any = partial(
    prefect_task,
    retries=len(BACKOFF_S),
    retry_delay_seconds=BACKOFF_S,
    retry_jitter_factor=0.3,
    retry_condition_fn=is_transient,
    cache_policy=NO_CACHE,
    persist_result=False,
    log_prints=False,
)
"""Decorator for every task of the project."""
