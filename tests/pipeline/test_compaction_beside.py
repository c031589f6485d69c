"""Workers, kills, failing writes and damage with compactions running beside them: on files, and in an object store."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import PipelineError
from pipeline.storage.opening import open_backend
from pipeline.store.compact import compact_store
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyBackend
from tests.support.s3 import S3Server
from tests.support.toy_stores import CROPS, FEATURES, check_features, extract, policy, videos

ROOT = Path(__file__).parents[2]
NUM_VIDEOS = 16
PAUSE_S = 0.1
"""Between compactions: without it they take most of the processor."""
_WORKER = """
import sys
from tests.support.faults import FaultPlan, FaultyBackend
from tests.support.toy_stores import extract, videos
from pipeline import FeatureStore
from pipeline.storage.opening import open_backend
at = int(sys.argv[2])
plan = FaultPlan(at=None if at < 0 else at, action="kill", kinds=("put", "create"))
ds = FeatureStore.open(FaultyBackend(open_backend(sys.argv[1]), plan), mode="a").dataset("toy")
ds.append_videos(videos(0, int(sys.argv[3])))
extract(ds)
"""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, str]]:
    """Return where a store may lie, and what a process needs to reach it."""
    if request.param == "local":
        return str(tmp_path / "store"), {}
    server: S3Server = request.getfixturevalue("s3")
    return f"s3://features/{tmp_path.name}/beside", server.environment()


@contextmanager
def compacting(url: str) -> Iterator[None]:
    """Compact again and again beside the block, each time what there is; it must end well every time."""
    stop, raised, packed = threading.Event(), [], []

    def work() -> None:
        while not (stop.is_set() and packed):
            try:
                done = compact_store(FeatureStore.open(url, "a"), min_loose=1, min_ids=1)
            except BaseException as err:  # whatever it is, the test is told
                raised.append(err)
                return
            packed.extend([done] * done.num_packs)
            stop.wait(PAUSE_S)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if raised:
        raise raised[0]


def prepared(url: str) -> None:
    dataset = FeatureStore.create(url).create_dataset("toy", shard_rows=2)
    dataset.append_videos(videos(0, 2))
    dataset.define_crop_set(CROPS, policy())
    extract(dataset)


def worker(place: tuple[str, dict[str, str]], at: int, num_videos: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _WORKER, place[0], str(at), str(num_videos)]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **place[1]})


def check_whole(url: str) -> None:
    """Nothing is lost, nothing is there twice, and everything can be compacted into one pack a set."""
    store = FeatureStore.open(url, "a")
    check_features(store.dataset("toy"))
    assert set(store.dataset("toy").status_counts(CROPS, FEATURES)) <= {"ok", "partial"}
    assert verify_store(store, repair=True).is_clean
    compact_store(store, min_loose=1, min_ids=1)
    after = FeatureStore.open(url)
    check_features(after.dataset("toy"))
    assert verify_store(after).problems == ()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak), pytest.param(2, marks=pytest.mark.soak)])
def test_workers_share_and_one_is_killed(place: tuple[str, dict[str, str]], seed: int) -> None:
    prepared(place[0])
    at = random.Random(seed).randrange(3, 30)
    with compacting(place[0]):
        workers = [worker(place, at, NUM_VIDEOS), worker(place, -1, NUM_VIDEOS), worker(place, -1, NUM_VIDEOS - 5)]
        codes = [one.wait(timeout=240) for one in workers]
        assert codes[1:] == [0, 0]
        assert codes[0] in (0, -9)  # the others may have left it nothing to do
        extract(FeatureStore.open(place[0], mode="a").dataset("toy"))
    assert FeatureStore.open(place[0]).dataset("toy").num_rows == NUM_VIDEOS
    check_whole(place[0])


@pytest.mark.parametrize("action", ["fail", "late"])
def test_writes_that_fail(place: tuple[str, dict[str, str]], action: str) -> None:
    prepared(place[0])
    with compacting(place[0]):
        for at in range(1, 40, 9):
            backend = FaultyBackend(open_backend(place[0]), FaultPlan(at=at, action=action))
            with suppress(PipelineError):
                dataset = FeatureStore.open(backend, mode="a").dataset("toy")  # type: ignore[arg-type]
                dataset.append_videos(videos(0, 2 + at // 2))
                extract(dataset)
        dataset = FeatureStore.open(place[0], mode="a").dataset("toy")
        dataset.append_videos(videos(0, NUM_VIDEOS))
        extract(dataset)
    check_whole(place[0])


def test_repairs(place: tuple[str, dict[str, str]]) -> None:
    prepared(place[0])
    store = FeatureStore.open(place[0], "a")
    store.dataset("toy").append_videos(videos(0, NUM_VIDEOS))
    with compacting(place[0]):
        extract(store.dataset("toy"))
        for shard in (1, 6):
            key = next(key for key, _ in store.backend.list(f"toy/crops/{CROPS}/features/{FEATURES}/values")
                       if key.endswith(f"c.{shard}.0.0"))  # fmt: skip
            data = bytearray(store.backend.read(key))
            data[8] ^= 1
            store.backend.put(key, bytes(data))
            assert [p.kind for p in verify_store(store, repair=True).problems] == ["wrong checksum"]
            extract(store.dataset("toy"))
    check_whole(place[0])
