"""Fixtures of the probe tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.browser import browser

__all__ = ["browser"]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small arrays: threads only get in each other's way, and in that of tests running beside."""
    import torch

    from probe.threads import load_faiss

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    load_faiss().omp_set_num_threads(1)
    yield
    torch.set_num_threads(before)
