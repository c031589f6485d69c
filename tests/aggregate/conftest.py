from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.support.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server with the bucket `features`; the environment of this test points at it."""
    s3_process.use(monkeypatch)
    return s3_process


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small matrices: a second thread costs more than it does."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
