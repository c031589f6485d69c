"""Memory that encoding threads free is theirs to use again: it neither goes back to the system nor comes from there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import resource, sys, threading
from pipeline.compute.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def work(rounds):
    for _ in range(rounds):
        first, second = b"x" * (40 << 20), b"x" * (30 << 20)
        third = b"x" * (20 << 20)
        del first, second, third

def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    threads = [threading.Thread(target=work, args=(rounds,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
print(faults(8))
"""


def faults(how: str, **environment: str) -> int:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True,
        env=own | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator of glibc")
def test_threads_use_freed_blocks_again() -> None:
    assert faults("kept") < faults("as it comes") / 10
