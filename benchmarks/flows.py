"""What Prefect costs: one recipe by the command line, and by a schedule through server, Postgres and a worker.

python -m benchmarks.flows --data DATA/jhmdb12      (five minutes on 2 cores; needs PostgreSQL)

The first scheduled run sees all clips but the last class; then they are added, and the next scheduled run must
extract those alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks._table import write_results
from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.flows.test_services import SECRETS, World
from tests.support.services import BIN, postgres, wait_until

ROOT = Path(__file__).resolve().parent.parent
RECIPE = ROOT / "flows" / "recipes" / "jhmdb12_mobilenet.yaml"
HELD_BACK = "walk"


def link_clips(source: Path, target: Path, *, without: str | None) -> int:
    """Make a data folder of links to the clips of all classes but one; return how many."""
    target.mkdir(exist_ok=True)
    with (source / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["label"] != without]
    for row in chosen:
        link = target / row["path"]
        link.parent.mkdir(exist_ok=True)
        if not link.exists():
            link.symlink_to((source / row["path"]).resolve())
    with (target / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(chosen)
    return len(chosen)


def run_by_hand(data: Path, weights: Path, store: Path) -> float:
    """Run the recipe with `scale run` and return its seconds."""
    started = time.perf_counter()
    command = [BIN / "scale", "run", RECIPE, "--data", data, "--weights", weights, "--store", store, "-q", "--json"]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_by_schedule(world: World, deployment: Any, slug: str) -> tuple[float, Any]:
    """Let a schedule start the deployment; return the run's seconds, from start to end, and the run."""
    known = {run.id for run in world.runs(deployment)}
    world.schedule(deployment, seconds_from_now=15, slug=slug)

    def due() -> Any:
        soon = datetime.now(UTC) + timedelta(minutes=5)
        return [r for r in world.runs(deployment) if r.id not in known and r.expected_start_time < soon]

    run = wait_until(due, timeout_s=60, what="a run made by the schedule")[0]
    finished = world.wait_for(run.id, "Completed", timeout_s=590)
    return (finished.end_time - finished.start_time).total_seconds(), finished


def main() -> None:
    """Measure both ways and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of J-HMDB-12")
    data = parser.parse_args().data.resolve()
    weights = data  # the recipe's weights lie beside the data folder
    with tempfile.TemporaryDirectory(prefix="scale-flows-") as folder, postgres(SECRETS) as database:
        place = Path(folder)
        first = link_clips(data, place / "data", without=HELD_BACK)
        by_hand = run_by_hand(place / "data", weights, place / "by-hand")
        world = World(place, database)
        del world.services.environment["OMP_NUM_THREADS"]  # tests share their cores; both ways here may use all
        job = Job(RECIPE, place / "data", place / "store")
        try:
            world.start_server()
            world.deploy(job)
            world.start_worker(job, SCALE_WEIGHTS=str(weights))
            with world.client() as client:
                deployment = client.read_deployment_by_name("pipeline/nightly-append")
            by_schedule, _ = run_by_schedule(world, deployment, "first")
            before = set(job.store.glob("jhmdb12/crops/*/ledger/*/*.parquet"))
            added = link_clips(data, place / "data", without=None) - first
            append, _ = run_by_schedule(world, deployment, "second")
            entries = set(job.store.glob("jhmdb12/crops/*/ledger/*/*.parquet")) - before
            status = FeatureStore.open(str(job.store)).dataset("jhmdb12").status("grid5x3", "mobilenet_v2")
        finally:
            world.services.stop_all()
    overhead = by_schedule - by_hand
    rows = [
        {"what": f"`scale run`, {first} clips", "seconds": f"{by_hand:.1f}", "ratio": "1.00"},
        {
            "what": "the same, scheduled: Prefect server, Postgres, process worker",
            "seconds": f"{by_schedule:.1f}",
            "ratio": f"{by_schedule / by_hand:.2f}",
        },
        {"what": "overhead (wanted: at most 5 % or 10 s)", "seconds": f"{overhead:.1f}", "ratio": ""},
        {"what": f"next scheduled run, {added} new clips", "seconds": f"{append:.1f}", "ratio": ""},
    ]
    notes = [
        f"ledger entries that the append wrote: {len(entries)}; statuses of all rows: "
        + json.dumps({s: status["status"].to_pylist().count(s) for s in set(status["status"].to_pylist())}),
    ]
    write_results("flows", "What Prefect costs", rows, packages=["prefect", "sqlalchemy"], notes=notes)


if __name__ == "__main__":
    main()
