"""A web server and a cache for tests of videos that lie elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from extract.places.cache import FileCache
from extract.places.files import Files
from extract.places.hosts import Hosts
from tests.support.web import WebServer, web_server

DATA = os.urandom(300_000)
NAMED = Hosts(("127.0.0.1",), ())


@pytest.fixture(scope="module")
def server() -> Iterator[WebServer]:
    with web_server() as web:
        yield web


@pytest.fixture
def web(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> WebServer:
    for known in (server.files, server.moved, server.cut_after, server.failures, server.trickle):
        known.clear()
    server.without_ranges.clear()
    server.asked.clear()
    server.files["/a.mp4"] = DATA
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return server


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(FileCache(tmp_path / "cache", 10 << 20), NAMED)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
