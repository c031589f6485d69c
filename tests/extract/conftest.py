"""Fixtures of the extraction tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.extraction import make_videos, tiny_program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A tiny exported network: path and sha256."""
    return tiny_program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten numbered videos; v003 is shorter than a crop."""
    return make_videos(tmp_path_factory.mktemp("videos"), [20, 31, 14, 3, 25, 40, 12, 18, 33, 22])
