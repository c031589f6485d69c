"""What Prefect costs: one recipe by the command line, and by a schedule through server, Postgres and a worker.

python -m benchmarks.flows --data DATA/jhmdb12      (60 clips, two rounds; needs PostgreSQL)
python -m benchmarks.flows --data DATA/jhmdb12 --clips-per-class 18 --rounds 1      (all clips)

Both ways do the same work with the same threads, each round on fresh stores, in turns. A scheduled run counts from
the moment it is due to its end, so that waiting for the worker and starting the process are part of the price.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun

from benchmarks._table import write_results
from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.support.clips import Row, link_clips, read_clips
from tests.support.prefect_world import World, running_world
from tests.support.services import BIN

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "flows" / "recipes" / "jhmdb12_mobilenet.yaml"
DEPLOYMENT = "pipeline/everything"


def some_of_each_class(rows: list[Row], per_class: int) -> list[Row]:
    """Return the first clips of each class: two of three for training, the others for testing."""
    num_train = 2 * per_class // 3
    left = defaultdict(lambda: {"train": num_train, "test": per_class - num_train})
    chosen = []
    for row in rows:
        if left[row["label"]][row["split1"]] > 0:
            left[row["label"]][row["split1"]] -= 1
            chosen.append(row)
    return chosen


def run_by_hand(job: Job, weights: Path) -> float:
    """Run the recipe with `scale run` and return its seconds, from the start of its process to its end."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    where = ["--data", job.data, "--weights", weights, "--store", job.store]
    command = [str(part) for part in (BIN / "scale", "run", job.recipe, *where, "-q", "--json")]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - started


def run_by_schedule(world: World, deployment: Any) -> FlowRun:
    """Let a schedule start the deployment and return the finished run."""
    # Not before the worker looks ahead: a schedule that is due at once would always be late.
    run = world.run_by_schedule(deployment, seconds_from_now=12)
    return world.wait_for(run.id, "Completed", timeout_s=580)


def seconds_of_stages(world: World, run: FlowRun) -> dict[str, float]:
    """Return how long each sub-flow took."""
    with world.client() as client:
        children = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        )
    return {child.name: child.total_run_time.total_seconds() for child in children}


def check_same_work(first: Path, second: Path) -> int:
    """Raise unless both stores hold the same features; return how many videos they are of."""
    datasets = [FeatureStore.open(str(store)).dataset("jhmdb12") for store in (first, second)]
    for crops in ("train16", "grid5x3"):
        a, b = (d.select().features(crops, "mobilenet_v2") for d in datasets)
        # A network may be compiled in one run and not in the other, by what it measured: equal to rounding, then.
        if not (a.valid.all() and np.allclose(a.values, b.values, rtol=1e-2, atol=1e-2)):
            raise AssertionError(f"expected both ways to store the same features of {crops}, found others")
    return len(a.rows)


def main() -> None:
    """Measure both ways and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of J-HMDB-12")
    parser.add_argument("--clips-per-class", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    source = arguments.data.resolve()
    weights = source.parent / "weights"  # not the data folder itself: its clips.csv would be found first
    clips = some_of_each_class(read_clips(source), arguments.clips_per_class)
    by_hand, due_to_end, start_to_end = [], [], []
    with tempfile.TemporaryDirectory(prefix="scale-flows-") as folder, running_world(Path(folder)) as world:
        del world.services.environment["OMP_NUM_THREADS"]  # tests share their cores; both ways here may use all
        place = Path(folder)
        link_clips(source, place / "data", clips)
        hand, scheduled = (Job(RECIPE, place / "data", place / name) for name in ("by-hand", "by-schedule"))
        world.deploy(scheduled)
        world.start_worker(scheduled, SCALE_WEIGHTS=str(weights))
        deployment = world.deployment(DEPLOYMENT)
        for number in range(arguments.rounds):
            for job in (hand, scheduled):
                shutil.rmtree(job.store, ignore_errors=True)
            by_hand.append(run_by_hand(hand, weights))
            run = run_by_schedule(world, deployment)
            due_to_end.append((run.end_time - min(run.expected_start_time, run.start_time)).total_seconds())
            start_to_end.append((run.end_time - run.start_time).total_seconds())
            print(f"round {number + 1}: by hand {by_hand[-1]:.1f} s, due to end {due_to_end[-1]:.1f} s", flush=True)
        stages = seconds_of_stages(world, run)
        num_clips = check_same_work(hand.store, scheduled.store)
        nothing_by_hand = run_by_hand(hand, weights)
        again = run_by_schedule(world, deployment)
        nothing = (again.end_time - again.expected_start_time).total_seconds()
    least = min(by_hand)
    overhead = statistics.median(b - a for a, b in zip(by_hand, due_to_end, strict=True))
    allowed = max(10.0, 0.05 * least)
    rows = [
        {"what": f"`scale run`, {num_clips} clips, from process start to exit", "seconds": _seconds(by_hand)},
        {"what": "the same by schedule, from due to end", "seconds": _seconds(due_to_end)},
        {"what": "of that, from the flow's start to its end", "seconds": _seconds(start_to_end)},
        {"what": f"overhead, median of rounds (allowed: {allowed:.1f})", "seconds": f"{overhead:.1f}"},
        {"what": "overhead in percent of the shortest `scale run`", "seconds": f"{100 * overhead / least:.1f} %"},
        {"what": "`scale run` again: nothing to do", "seconds": f"{nothing_by_hand:.1f}"},
        {"what": "the next scheduled run: nothing to do", "seconds": f"{nothing:.1f}"},
    ]
    notes = [
        f"{arguments.rounds} rounds in turns, each on fresh stores; every figure of every round is shown.",
        "Both stores hold the same features.",
        "Sub-flows of the last round: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stages.items()),
    ]
    write_results("flows", "What Prefect costs", rows, packages=["prefect", "sqlalchemy"], notes=notes)


def _seconds(values: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
