"""Extraction on a Dask cluster that somebody else started: a scheduler and workers as processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from extract import plan_extract, run_extract
from pipeline import FeatureStore
from pipeline.errors import WorkerLostError
from pipeline.events import Note, Progress
from pipeline.settings import Settings
from tests.support.extraction import (
    assert_same_features,
    catalogue,
    extract_all,
    make_videos,
    read_everything,
    tiny_recipe,
)

START_LIMIT_S = 60


class Cluster:
    """A scheduler and workers on loopback; ports are the system's choice."""

    def __init__(self, folder: Path, num_workers: int) -> None:
        self._folder = folder
        self._file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--no-jupyter", "--scheduler-file", str(self._file),
        )  # fmt: skip
        self._wait(self._file.is_file)
        self.address: str = json.loads(self._file.read_text())["address"]
        self.workers = [self.start_worker(k) for k in range(num_workers)]

    def start_worker(self, number: int) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1", "--memory-limit", "0", "--no-nanny",
            "--no-dashboard", "--name", str(number), "--local-directory", str(self._folder),
        )  # fmt: skip

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log)

    def _wait(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not is_there():
            assert self.scheduler.poll() is None, (self._folder / "scheduler.log").read_text()
            assert time.monotonic() < deadline, "the scheduler did not start"
            time.sleep(0.1)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    folder = tmp_path / "cluster"
    folder.mkdir()
    found = Cluster(folder, 2)
    yield found
    found.close()


@pytest.mark.slow
def test_a_cluster_of_others_loses_nothing_with_a_worker(tmp_path, cluster, program):
    videos = make_videos(tmp_path / "videos", [18 + k % 5 for k in range(24)])
    recipe = tiny_recipe(program, shard_rows=2)
    store = FeatureStore.create(str(tmp_path / "store"))
    settings = Settings(data=videos, dask=cluster.address)
    catalogue(recipe, store, settings)
    events = []

    def listen(event) -> None:
        events.append(event)
        if sum(isinstance(e, Progress) for e in events) == 2 and cluster.workers[0].poll() is None:
            cluster.workers[0].kill()  # in the middle of its next shard
            cluster.workers[0].wait()

    report = run_extract(plan_extract(recipe, store, settings), store, settings, listen)
    assert cluster.workers[0].poll() is not None
    assert report.did["shards_done"] + report.did["shards_skipped"] == 24
    assert [e.done for e in events if isinstance(e, Progress)][-1] == 24
    assert plan_extract(recipe, store, settings).is_empty
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=videos))
    assert_same_features(read_everything(store, recipe), read_everything(clean, recipe))


@pytest.mark.slow
def test_a_cluster_whose_scheduler_dies_is_said_so_and_the_next_run_goes_on(tmp_path, cluster, program):
    videos = make_videos(tmp_path / "videos", [18 + k % 5 for k in range(16)])
    recipe = tiny_recipe(program, shard_rows=2)
    store = FeatureStore.create(str(tmp_path / "store"))
    settings = Settings(data=videos, dask=cluster.address)
    catalogue(recipe, store, settings)
    begun = threading.Event()

    def listen(event) -> None:
        if isinstance(event, Progress | Note):
            begun.set()

    plan = plan_extract(recipe, store, settings)
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(run_extract, plan, store, settings, listen)
        assert begun.wait(120)
        cluster.scheduler.kill()
        with pytest.raises(WorkerLostError, match="run again"):
            run.result(timeout=120)
    for worker in cluster.workers:
        worker.kill()
        worker.wait()
    _, report = extract_all(recipe, store.url, Settings(data=videos))
    assert report.did["shards_skipped"] >= 1
    clean, _ = extract_all(recipe, tmp_path / "clean", Settings(data=videos))
    assert_same_features(read_everything(FeatureStore.open(store.url), recipe), read_everything(clean, recipe))
