"""A command that has done its work exits with 0, also on a busy machine: no thread of a library outlives the work."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from flows.cli import run
from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.support.soak import Tally, soak

SCALE = Path(sys.executable).parent / "scale"
ENDS = int(os.environ.get("SCALE_SOAK_ENDS", "200"))
BURN = "while True: pass"
THREADS_OF_A_READER = """
import os, sys
import numpy, pyarrow.parquet
from pipeline import FeatureStore

count = lambda: len(os.listdir("/proc/self/task"))
store = FeatureStore.open(sys.argv[1])
before = count()
rows = store.dataset("set").videos.num_rows
store.dataset("set").snapshot()
print(before, count(), rows)
"""


def test_reading_a_store_starts_no_thread_that_outlives_the_reading(job: Job) -> None:
    """Arrow's threads did; one that let go of Python's bytes as the interpreter ended aborted the process."""
    assert run(["catalog", str(job.recipe), "--data", str(job.data), "--store", str(job.store), "-q"]) == 0
    done = subprocess.run(
        [sys.executable, "-c", THREADS_OF_A_READER, str(job.store)], capture_output=True, text=True, check=True
    )
    before, after, rows = map(int, done.stdout.split())
    assert rows == FeatureStore.open(str(job.store)).dataset("set").num_rows
    assert after == before


def end(job: Job, command: str, at_once: int = 3) -> Counter[int]:
    """Run a command that has nothing to do several times at once, beside a process that burns a core."""
    call = [str(SCALE), command, str(job.recipe), "--data", str(job.data), "--store", str(job.store), "-q"]
    burner = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        running = [
            subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                             env=os.environ | {"OMP_NUM_THREADS": "1"})
            for _ in range(at_once)
        ]  # fmt: skip
        return Counter(process.wait(timeout=300) for process in running)
    finally:
        burner.kill()
        burner.wait()


@pytest.mark.slow
def test_commands_with_nothing_to_do_exit_with_0_under_load(job: Job) -> None:
    assert run(["run", str(job.recipe), "--data", str(job.data), "--store", str(job.store), "-q"]) == 0
    found = {command: end(job, command) for command in ("catalog", "extract", "probe")}
    assert found == {command: Counter({0: 3}) for command in found}


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("command", ["catalog", "extract", "probe"])
def test_hundreds_of_commands_exit_with_0_under_load(job: Job, command: str) -> None:
    assert run(["run", str(job.recipe), "--data", str(job.data), "--store", str(job.store), "-q"]) == 0

    def one(number: int, tally: Tally) -> None:
        for code, count in end(job, command, at_once=4).items():
            tally.counts[command].update({"rounds": count, f"exit {code}": count, "wrong": count * (code != 0)})

    assert soak(f"ends-{command}", ENDS, one).total()["wrong"] == 0
