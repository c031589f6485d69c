"""A thousand shards through one flow on a real server: memory over time, and how quickly the page is answered.

python -m benchmarks.flow_shards      (needs PostgreSQL)

Videos of twelve frames, a shard each, through a tiny network: the work is nearly all bookkeeping. Beside the run a
reader asks the API what the run's page asks, every few seconds, and afterwards again.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import statistics
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import yaml

from benchmarks._table import write_results
from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.support.extraction import make_videos, tiny_program
from tests.support.prefect_world import SECRETS, World, running_world, wait_until

EVERY_S = 3.0
NUM_FILES = 20
"""Files that are really written; the other videos are links to them."""


def many_videos(folder: Path, num_videos: int) -> Job:
    """Write a recipe and a folder of short videos: a shard each, one crop set, two crops of four frames."""
    files = sorted(make_videos(folder / "files", [12] * NUM_FILES).glob("*.mp4"))
    for k in range(num_videos):
        link = folder / "videos" / f"{k:05d}.mp4"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(files[k % NUM_FILES])
    path, sha256 = tiny_program(folder)
    crops = {"policy": "grid", "temporal": 2, "spatial": 1, "num_frames": 4, "stride": 2, "size_px": 16,
             "short_side_px": 20, "cover_tail": True}  # fmt: skip
    backbone = {"kind": "exported", "weights": {"path": str(path), "sha256": sha256}, "num_frames": 4, "size_px": 16}
    recipe = {
        "name": "many",
        "dataset": {"name": "many", "videos": "*.mp4", "shard_rows": 1},
        "crops": {"grid": crops},
        "backbones": {"tiny": backbone},
    }
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return Job(file, folder / "videos", folder / "store")


def page_requests(run_id: UUID) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return what the page of a run asks the server, by name."""
    of_run = {"flow_runs": {"id": {"any_": [str(run_id)]}}}
    return {
        "the run": ("/flow_runs/filter", {**of_run, "limit": 1}),
        "its task runs": ("/task_runs/filter", {**of_run, "sort": "EXPECTED_START_TIME_DESC", "limit": 50}),
        "their number": ("/task_runs/count", of_run),
        "its artifacts": ("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [str(run_id)]}}, "limit": 50}),
        "its logs": ("/logs/filter", {"logs": {"flow_run_id": {"any_": [str(run_id)]}}, "sort": "TIMESTAMP_ASC",
                                      "limit": 200}),
        "all runs": ("/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 10}),
    }  # fmt: skip


def ask(world: World, path: str, body: dict[str, Any]) -> tuple[float, Any]:
    """Send one request; return its milliseconds and the answer."""
    token = base64.b64encode(SECRETS["PREFECT_AUTH"].encode()).decode()
    request = urllib.request.Request(
        world.api_url + path,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", "Authorization": f"Basic {token}"},
    )
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = json.load(answer)
    return 1000 * (time.perf_counter() - started), content


def flow_process(job: Job) -> psutil.Process:
    """Return the process that runs the flow."""

    def found() -> psutil.Process | None:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            try:
                is_flow = "prefect.flow_engine" in command or "prefect.engine" in command or "execute" in command
                if is_flow and process.environ().get("SCALE_STORE") == str(job.store):
                    return process
            except psutil.Error:
                continue
        return None

    return wait_until(found, timeout_s=90, what="the process of the flow run")


def main() -> None:
    """Run, watch, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--shards-per-task", type=int, default=4, help="4 is what the form offers")
    arguments = parser.parse_args()
    memory: list[tuple[float, float]] = []  # seconds of the flow, MiB
    during: dict[str, list[float]] = {}
    after: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="scale-many-") as folder, running_world(Path(folder)) as world:
        (Path(folder) / "job").mkdir()
        job = many_videos(Path(folder) / "job", arguments.shards)
        world.call(["scale", "catalog", str(job.recipe), "-q"], job)
        world.deploy(job)
        world.start_worker(job)
        options = {"shards_per_task": arguments.shards_per_task}
        run_id = world.start_run(world.deployment("extract/extract"), job, options=options)
        process = flow_process(job)
        server_before = _server_mib(world)
        started = time.perf_counter()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            try:
                memory.append((time.perf_counter() - started, process.memory_info().rss / 2**20))
            except psutil.NoSuchProcess:
                break
            for name, request in page_requests(run_id).items():
                during.setdefault(name, []).append(ask(world, *request)[0])
            time.sleep(EVERY_S)
        run = world.wait_for(run_id, "Completed", timeout_s=60)
        server_after = _server_mib(world)
        for name, request in page_requests(run_id).items():
            after[name] = [ask(world, *request)[0] for _ in range(10)]
        num_task_runs = ask(world, *page_requests(run_id)["their number"])[1]
        dataset = FeatureStore.open(str(job.store)).dataset("many")
        done = dataset.status("grid", "tiny")["status"].to_pylist().count("ok")
    seconds = run.total_run_time.total_seconds()
    quarters = [_mean(memory, q / 4, (q + 1) / 4) for q in range(4)]
    rows: list[dict[str, object]] = [
        {"what": "shards committed", "value": f"{done} of {arguments.shards}"},
        {"what": "task runs", "value": str(num_task_runs)},
        {"what": "seconds of the flow run", "value": f"{seconds:.0f}"},
        {"what": "milliseconds a shard", "value": f"{1000 * seconds / arguments.shards:.0f}"},
        {"what": "memory of the flow's process, by quarters of the run",
         "value": ", ".join(f"{mib:.0f}" for mib in quarters) + " MiB"},
        {"what": "last quarter over second quarter", "value": f"{quarters[3] / quarters[1]:.3f}"},
        {"what": "memory of the server before and after", "value": f"{server_before:.0f}, {server_after:.0f} MiB"},
    ]  # fmt: skip
    rows += [
        {"what": f"page: {name}, during and after", "value": f"{_shown(during[name])}; {_shown(after[name])}"}
        for name in after
    ]
    notes = [
        f"Memory and requests every {EVERY_S:.0f} s, {len(memory)} times; requests: median (largest) in milliseconds.",
        f"{arguments.shards_per_task} shards a task; cores {os.cpu_count()}, threads of the network 1.",
    ]
    write_results("flow_shards", f"{arguments.shards} shards through one flow", rows, packages=["prefect"], notes=notes)


def _mean(samples: list[tuple[float, float]], first: float, last: float) -> float:
    end = samples[-1][0]
    return statistics.mean(mib for second, mib in samples if first * end <= second <= last * end)


def _shown(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ms ({max(values):.0f})"


def _server_mib(world: World) -> float:
    process = psutil.Process(world.services.processes["prefect-server"].pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20


if __name__ == "__main__":
    main()
