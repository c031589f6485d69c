"""Fixtures of the probe tests."""

from __future__ import annotations

import pytest

from tests.support.browser import browser

__all__ = ["browser"]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Small arrays: threads only get in each other's way, and in that of tests running beside."""
    from probe.threads import load_faiss

    load_faiss().omp_set_num_threads(1)
