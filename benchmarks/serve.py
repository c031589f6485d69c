"""`scale serve` under load: clients on loopback against the same calls in this process, and a browser over many videos.

    python -m benchmarks.serve [--short]

A store of 100,000 synthetic videos with an index. Fifty clients ask for two minutes (`--short`: 4,000 videos, 10 s);
the server is a process of its own. Memory is the server's, after a tenth of the time and at the end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from pipeline import FeatureStore
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings
from probe.index.search import Neighbours, hits_of, open_index, search_rows
from probe.index.stage import plan_index, run_index
from tests.support.services import free_port, wait_until
from tests.support.stores import CROPS, FEATURE_SET, make_store

LABELS = ("run", "walk", "jump", "climb", "catch")
VIEWS = (
    "",
    "/videos",
    "/videos?label=run",
    "/videos?where=duration_s%20%3E%202",
    "/video/7",
    "/map",
    "/search",
    "/failures",
)


def build(folder: Path, num_videos: int) -> FeatureStore:
    """Make a store with an index over the pooled crops."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((num_videos, 2, 32)).astype(np.float16)
    labels = [LABELS[i % len(LABELS)] for i in range(num_videos)]
    splits = ["test" if i % 4 == 0 else "train" for i in range(num_videos)]
    store = make_store(folder / "store", labels=labels, splits=splits, values=values, shard_rows=4096)
    recipe = parse_recipe({
        "name": "bench", "dataset": {"name": "toy", "videos": "*"},
        "crops": {CROPS: {"policy": "random", "num_crops": 2}},
        "backbones": {FEATURE_SET: {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
        "indexes": [{"name": "default", "crops": CROPS, "backbone": FEATURE_SET, "kind": "flat"}],
    })  # fmt: skip
    run_index(plan_index(recipe, store, Settings()), store, Settings())
    return store


def serve(store: FeatureStore, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server as people do."""
    port = free_port()
    scale = Path(sys.executable).parent / "scale"
    command = [str(scale), "serve", f"s={store.url}", "--port", str(port), "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_server(port)
    return process, port


def wait_for_server(port: int) -> None:
    """Wait until a server answers on loopback."""

    def answers() -> bool:
        try:
            return ask(http.client.HTTPConnection("127.0.0.1", port, timeout=5), "/healthz")[0] == 200
        except OSError:
            return False

    wait_until(answers, timeout_s=60, what="the server")


def ask(connection: http.client.HTTPConnection, path: str) -> tuple[int, bytes]:
    """Return status and body."""
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def load(
    port: int, paths: list[str], *, clients: int, seconds: float, process: subprocess.Popen[bytes]
) -> dict[str, object]:
    """Ask with many clients; return rates, times, errors and the server's memory."""
    times: list[float] = []
    errors: list[int] = []
    stop = time.monotonic() + seconds

    def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < stop:
            path = paths[int(rng.integers(len(paths)))]
            began = time.perf_counter()
            try:
                status, _ = ask(connection, path)
            except (OSError, http.client.HTTPException):
                connection.close()
                status = 0
            times.append(time.perf_counter() - began)
            if status != 200:
                errors.append(status)

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(clients)]
    for thread in threads:
        thread.start()
    server = psutil.Process(process.pid)
    time.sleep(seconds / 10)  # the point of the measurement: memory early, and memory late
    early = server.memory_info().rss
    for thread in threads:
        thread.join()
    late = server.memory_info().rss
    ordered = np.sort(times)
    return {
        "requests/s": f"{len(times) / seconds:.0f}", "median": f"{1e3 * np.median(ordered):.0f} ms",
        "p95": f"{1e3 * ordered[int(0.95 * len(ordered))]:.0f} ms",
        "errors": f"{len(errors)} {sorted(set(errors))}" if errors else 0,
        "server MiB early / late": f"{early / 2**20:.0f} / {late / 2**20:.0f}",
    }  # fmt: skip


def one_line(found: Neighbours) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and similarities of the only query."""
    return found.rows[0], found.similarities[0]


def alone(calls: Sequence[Callable[[], object]]) -> str:
    """Return the median time of calls in this process."""
    spent = []
    for call in calls:
        began = time.perf_counter()
        call()
        spent.append(time.perf_counter() - began)
    return f"{1e3 * float(np.median(spent)):.1f} ms"


def browse(port: int) -> list[dict[str, object]]:
    """Open every view in Chromium; return when something was painted, and what went wrong."""
    from tests.support.browser import running_browser

    rows: list[dict[str, object]] = []
    with running_browser("chromium") as browser:
        for view in VIEWS:
            with browser.page(width=1280, height=900) as page:
                page.open(f"http://127.0.0.1:{port}/s/toy{view}")
                paint = page.evaluate(
                    "new Promise(d => {const f = () => {"
                    "const p = performance.getEntriesByName('first-contentful-paint')[0];"
                    "p ? d(p.startTime) : setTimeout(f, 20)}; f()})"
                )
                problems = [p for p in page.problems() if "thumbnail" not in p and "404" not in p]
                rows.append({"view": view or "/", "first paint": f"{paint:.0f} ms", "problems": len(problems)})
    return rows


def main() -> None:
    """Build, load, browse, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--folder", type=Path, help="keep the store here, and use one that is there")
    asked_for = parser.parse_args()
    short = asked_for.short
    num_videos, clients, seconds = (4_000, 10, 10.0) if short else (100_000, 50, 120.0)
    with tempfile.TemporaryDirectory(prefix="scale-bench-serve-") as name:
        folder = asked_for.folder or Path(name)
        store = FeatureStore.open(folder / "store") if (folder / "store").is_dir() else build(folder, num_videos)
        ids = store.dataset("toy").videos["video_id"].to_pylist()[: 997 * 13 : 13][:997]
        ds = store.dataset("toy")
        opened = open_index(store, "toy", "default", ds=ds)

        def near(video_id: str) -> Neighbours:
            return search_rows(opened, ds, np.array([ds.row_of(video_id)]), 10)

        here = {
            "by id": alone([lambda i=i: ds.select(video_ids=[i]).videos.to_pylist() for i in ids[:50]]),
            "search by id": alone([lambda i=i: hits_of(ds, *one_line(near(i))) for i in ids[:200]]),
        }
        process, port = serve(store, folder)
        try:
            base = "/api/v1/s/toy"
            asked = {
                "by id": [f"{base}/row?video_id={quote(i)}" for i in ids],
                "search by id": [f"{base}/search?k=10&video_id={quote(i)}" for i in ids],
            }
            rows: list[dict[str, object]] = []
            for what, paths in asked.items():
                measured = load(port, paths, clients=clients, seconds=seconds / len(asked), process=process)
                rows.append({"call": what, "in process": here[what], **measured})
            warm = load(port, list(dict.fromkeys(asked["search by id"])), clients=1, seconds=5, process=process)
            seen = browse(port)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
    notes = [f"{num_videos} videos, {clients} clients, {seconds / 2:.0f} s each; load average {os.getloadavg()[0]:.1f}",
             f"one client alone, search by id: median {warm['median']}, p95 {warm['p95']}",
             f"Chromium, first contentful paint: {json.dumps(seen)}"]  # fmt: skip
    write_results(
        "serve" if not short else "serve_short",
        "scale serve under load",
        rows,
        packages=["uvicorn", "fastapi"],
        notes=notes,
    )


if __name__ == "__main__":
    main()
