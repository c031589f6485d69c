"""Marks, shared fixtures and the rule that a broken runner cannot pass silently."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.s3 import S3Server

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # `tests.support` is imported from the root; tests are never installed
    sys.path.insert(0, str(ROOT))

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # started with `&` from a script: what the tests start would inherit deafness to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 6 << 30
"""Of memory that must be free for temporary folders to lie in it."""


def pytest_configure(config: pytest.Config) -> None:
    """Let temporary folders lie in memory where there is plenty: a disk makes thousands of fsyncs a matter of minutes.

    `--basetemp` or TMPDIR say otherwise.
    """
    if config.getoption("basetemp") is None and "TMPDIR" not in os.environ and _has_room(IN_MEMORY):
        os.environ["TMPDIR"] = str(IN_MEMORY)
        tempfile.tempdir = None  # asked for anew


def _has_room(folder: Path) -> bool:
    """Whether a folder is in memory, may hold programs, and has room."""
    try:
        is_tmpfs = f"tmpfs {folder} tmpfs" in Path("/proc/mounts").read_text()
        found = os.statvfs(folder)
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free_bytes = min(int(fields["MemAvailable"].split()[0]) << 10, found.f_bavail * found.f_frsize)
    except (OSError, KeyError, ValueError):
        return False
    return is_tmpfs and not found.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK) and free_bytes >= ROOM_BYTES


def shared_data_dir() -> Path | None:
    """Return the folder of real videos, or None where it is absent."""
    given = os.environ.get("SCALE_SHARED_DATA")
    for candidate in [Path(given)] if given else [ROOT.parent / "shared" / "data"]:
        if (candidate / "files.csv").is_file():
            return candidate
    return None


def _reason_missing(mark: str) -> str | None:
    if mark == "shared_data" and shared_data_dir() is None:
        return "no folder of real videos; set SCALE_SHARED_DATA to it"
    if mark == "gpu":
        import torch

        if not torch.cuda.is_available():
            return "no CUDA device"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    required = set(filter(None, os.environ.get("SCALE_REQUIRE", "").split(",")))
    reasons = {mark: _reason_missing(mark) for mark in ("shared_data", "gpu")}
    for item in items:
        for mark, reason in reasons.items():
            if reason is not None and mark not in required and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=f"{mark}: {reason}"))


def require_program(*names: str) -> str:
    """Return the path of the first program found; skip (or fail, under SCALE_REQUIRE=service) when none is there."""
    for name in names:
        found = shutil.which(name) or next(
            (str(p) for p in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
        )
        if found:
            return found
    message = f"service: none of {', '.join(names)} is installed; run `make system`"
    if "service" in os.environ.get("SCALE_REQUIRE", "").split(","):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real videos; tests that use it carry the mark `shared_data`."""
    folder = shared_data_dir()
    if folder is None:
        pytest.fail("expected the folder of real videos (SCALE_SHARED_DATA), found none")
    return folder


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SCALE_STORE",
        "SCALE_DATA",
        "SCALE_WEIGHTS",
        "SCALE_DEVICE",
        "SCALE_WORKERS",
        "SCALE_DASK",
        "SCALE_DECODER",
        "SCALE_ROOTS",
        "SCALE_HOSTS",
        "SCALE_CACHE_BYTES",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread for one test."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def s3_process() -> Iterator[S3Server]:
    from tests.support.s3 import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A server with the bucket `features`; the environment of this test points at it."""
    s3_process.use(monkeypatch)
    return s3_process


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say last what was not tried, and how to get it."""
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("not tried here")
        for reason, count in sorted(reasons.items()):
            terminalreporter.write_line(f"{count:4} x {reason}")
