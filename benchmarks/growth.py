# ruff: noqa: D102
"""How the store's verbs grow with the number of videos: seconds, peak memory, files opened, requests of an S3 API.

python -m benchmarks.growth [--videos 10000 100000] [--folder DIR] [--keep]

Features are tiny (2 crops x 8 channels), everything else is the product's own write path; fsync is off while a store is
built. Every verb runs in a process of its own, twice: on files, and through the code for object stores over the same
folder, whose calls are counted as the requests that they would be (a listing counts a page for every 1,000 names).
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks._table import RESULTS, write_results
from pipeline import FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy
from pipeline.storage.backend_local import Disk, LocalBackend

V, D, SHARD_ROWS, COMMIT_ROWS = 2, 8, 256, 8192
CROPS, FEATURES = "c", "f"
NAMES_A_PAGE = 1000


class FastDisk(Disk):
    """Without fsync: what is measured is not the disk."""

    def fsync(self, fd: int) -> None:
        """Do nothing."""


class Requests(LocalBackend):
    """A folder behind the code for object stores, counting what an S3 API would be asked."""

    is_local = False

    def __init__(self, root: str | Path) -> None:
        super().__init__(root, FastDisk())
        self.count: Counter[str] = Counter()
        self.num_bytes = 0

    def local_name(self, key: str) -> None:  # type: ignore[override]
        """There are no files."""

    def local_path(self, key: str) -> None:  # type: ignore[override]
        """There are no files."""

    def read(self, key: str) -> bytes:
        self.count["GET"] += 1
        data = super().read(key)
        self.num_bytes += len(data)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.count["GET"] += 1
        self.num_bytes += length
        return super().read_range(key, start, length)

    def size(self, key: str) -> int:
        self.count["HEAD"] += 1
        return super().size(key)

    def exists(self, key: str) -> bool:
        self.count["HEAD"] += 1
        return super().exists(key)

    def put(self, key: str, data: Any) -> None:
        self.count["PUT"] += 1
        super().put(key, data)

    def create(self, key: str, data: Any) -> None:
        self.count["PUT"] += 1
        super().create(key, data)

    def delete(self, key: str) -> None:
        self.count["DELETE"] += 1
        super().delete(key)

    def delete_all(self, keys: Any) -> None:
        self.count["DELETE"] += -(-len(keys) // 1000)
        super().delete_all(keys)

    def list(self, prefix: str = "", *, recursive: bool = True) -> Any:
        found = super().list(prefix, recursive=recursive)
        self.count["LIST"] += max(1, -(-len(found) // NAMES_A_PAGE))
        return found

    def folders(self, prefix: str = "") -> Any:
        self.count["LIST"] += 1
        return super().folders(prefix)


def video_table(start: int, stop: int) -> pa.Table:
    numbers = np.arange(start, stop)
    return pa.table(
        {
            "video_id": [f"videos/{i // 1000:06d}/{i:010d}.mp4" for i in numbers.tolist()],
            "sha256": [f"{i:064x}" for i in numbers.tolist()],
            "duration_s": numbers % 97 + 0.5,
            "label": [f"class{i % 400:03d}" for i in numbers.tolist()],
        }
    )


def write_missing(ds: Any) -> int:
    """Do what is missing with random features; return how many shards."""
    writer = ds.writer(CROPS, FEATURES, {"backbone": "growth"}, D)
    rng = np.random.default_rng(0)
    tasks = writer.todo()
    for task in tasks:
        n = len(task)
        values = rng.standard_normal((n, V, D), dtype=np.float32)
        geometry = np.ones((n, V, 9), np.float32)
        writer.write(task, values, np.ones((n, V), bool), geometry, [RowStatus(r, "ok") for r in task.rows.tolist()])
    return len(tasks)


def build(folder: Path, num_videos: int) -> tuple[float, float]:
    """Return processor seconds of appending and of writing."""
    store = FeatureStore.create(LocalBackend(folder, FastDisk()))
    ds = store.create_dataset("d", shard_rows=SHARD_ROWS)
    ds.define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=V))
    started = time.process_time()
    for first in range(0, num_videos, COMMIT_ROWS):
        ds.append_videos(video_table(first, min(first + COMMIT_ROWS, num_videos)))
    appended = time.process_time()
    write_missing(ds)
    return appended - started, time.process_time() - appended


def one_video(ds: Any, number: int) -> None:
    ds.select(video_ids=[f"videos/{number // 1000:06d}/{number:010d}.mp4"]).features(CROPS, FEATURES)


def verb_open(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: store.dataset("d").num_rows


def verb_start(store: FeatureStore, n: int) -> Callable[[], object]:
    """Open from nothing: the interpreter, every import, the store, the data set."""
    code = "import sys\nfrom pipeline import FeatureStore\nFeatureStore.open(sys.argv[1]).dataset('d').num_rows"

    def start() -> None:
        subprocess.run([sys.executable, "-c", code, store.url], check=True)

    return start


def verb_by_id(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: one_video(store.dataset("d"), n // 2)


def verb_by_id_warm(store: FeatureStore, n: int) -> Callable[[], object]:
    ds = store.dataset("d")
    for part in (2, 4, 5, 6, 7):
        one_video(ds, n // part)
    return lambda: one_video(ds, n // 3)


def verb_select(store: FeatureStore, n: int) -> Callable[[], object]:
    ds = store.dataset("d")
    return lambda: ds.select(f"label = 'class007' AND row < {400 * 300}").features(CROPS, FEATURES)


def verb_plan(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: store.dataset("d").writer(CROPS, FEATURES, {"backbone": "growth"}, D).todo()


def verb_status(store: FeatureStore, n: int) -> Callable[[], object]:
    """Ask what `scale status` asks."""

    def ask() -> None:
        ds = store.dataset("d")
        assert sum(ds.status_counts(CROPS, FEATURES).values()) == ds.num_rows
        ds.failed(CROPS, FEATURES)

    return ask


def verb_status_rows(store: FeatureStore, n: int) -> Callable[[], object]:
    """Make the table of every row."""
    return lambda: store.dataset("d").status(CROPS, FEATURES)


def verb_info(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: store.dataset("d").feature_info(CROPS, FEATURES)


def verb_snapshot(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: store.dataset("d").snapshot()


def verb_sql(store: FeatureStore, n: int) -> Callable[[], object]:
    return lambda: store.sql("SELECT status, count(*) FROM d.ledger GROUP BY status")


def verb_verify(store: FeatureStore, n: int) -> Callable[[], object]:
    from pipeline.verify.verify_store import verify_store

    return lambda: verify_store(store)


def verb_nightly(store: FeatureStore, n: int) -> Callable[[], object]:
    def nightly() -> None:
        ds = store.dataset("d")
        first = ds.num_rows
        ds.append_videos(video_table(first, first + 100))
        assert write_missing(ds) > 0

    return nightly


VERBS = {name.removeprefix("verb_"): made for name, made in list(globals().items()) if name.startswith("verb_")}


def processor_seconds() -> float:
    """Return what this process and those that it started have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_kib(*, reset: bool = False) -> int:
    """Return the most memory this process has had since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def run_child(verb: str, folder: Path, num_videos: int, *, requests: bool) -> None:
    """Measure one verb in this process; print JSON."""
    opened: Counter[str] = Counter()
    root = str(folder.resolve())

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).startswith(root):
            opened["files"] += 1

    backend: LocalBackend = Requests(folder) if requests else LocalBackend(folder, FastDisk())
    store = FeatureStore.open(backend, mode="a")
    action = VERBS[verb](store, num_videos)
    sys.addaudithook(audit)
    if isinstance(backend, Requests):
        backend.count.clear()
        backend.num_bytes = 0
    opened.clear()
    before = peak_kib(reset=True)
    started, processor = time.perf_counter(), processor_seconds()
    action()
    result: dict[str, object] = {
        "seconds": time.perf_counter() - started,
        "processor": processor_seconds() - processor,
        "mib": (peak_kib() - before) / 1024,
        "files": opened["files"],
    }
    if isinstance(backend, Requests):
        result |= {"requests": dict(backend.count), "megabytes": backend.num_bytes / 1e6}
    print(json.dumps(result))


def measure(verb: str, folder: Path, num_videos: int, *, requests: bool = False) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.growth", "--child", verb, str(folder), str(num_videos)]
    done = subprocess.run(command + ["--requests"] * requests, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-1][:120] if done.stderr else "killed"}
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def table(
    num_videos: int, folder: Path, verbs: list[str], runs: int, *, is_built: bool = False
) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    if not is_built:
        shutil.rmtree(folder, ignore_errors=True)
        appended, written = build(folder, num_videos)
        rows.append(_row(num_videos, "append, in commits of 8,192", {"processor": appended}))
        rows.append(_row(num_videos, "extract: todo, claims and commits", {"processor": written}))
    for verb in verbs:
        local = [measure(verb, folder, num_videos) for _ in range(1 if verb in ("nightly", "verify") else runs)]
        remote = measure(verb, folder, num_videos, requests=True) if verb not in ("verify", "start") else {}
        good = [m for m in local if "failed" not in m]
        best = min(good, key=lambda m: m["processor"]) if good else local[0]
        rows.append(_row(num_videos, verb, best, remote))
        print(rows[-1], file=sys.stderr)
    return rows


def _row(num_videos: int, verb: str, local: dict[str, Any], remote: dict[str, Any] | None = None) -> dict[str, object]:
    remote = remote or {}
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(remote.get("requests", {}).items()))
    return {
        "videos": f"{num_videos:,}",
        "verb": verb,
        "processor s": local.get("failed") or f"{local['processor']:.3f}",
        "seconds": f"{local['seconds']:.3f}" if "seconds" in local else "",
        "peak MiB more": f"{local['mib']:.0f}" if "mib" in local else "",
        "files opened": local.get("files", ""),
        "requests": remote.get("failed") or counts,
        "MB fetched": f"{remote['megabytes']:.1f}" if "megabytes" in remote else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--verbs", nargs="+", default=list(VERBS), choices=list(VERBS))
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to put the stores (about 1 KB a video)")
    parser.add_argument("--keep", action="store_true", help="leave the stores there")
    parser.add_argument("--built", type=Path, help="a store of one size that was left there, instead of making it")
    parser.add_argument("--child", nargs=3, metavar=("VERB", "FOLDER", "VIDEOS"), help=argparse.SUPPRESS)
    parser.add_argument("--requests", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        verb, folder, num_videos = options.child
        run_child(verb, Path(folder), int(num_videos), requests=options.requests)
        return
    place = Path(tempfile.mkdtemp(prefix="bench-growth-", dir=options.folder))
    kept = RESULTS / "growth.jsonl"
    try:
        for num_videos in options.videos:
            folder = options.built or place / str(num_videos)
            rows = table(num_videos, folder, options.verbs, options.runs, is_built=options.built is not None)
            old = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
            new = {(row["videos"], row["verb"]) for row in rows}
            old = [row for row in old if (row["videos"], row["verb"]) not in new]
            merged = sorted(old + rows, key=lambda row: int(str(row["videos"]).replace(",", "")))
            kept.write_text("".join(json.dumps(row) + "\n" for row in merged))
        write_results(
            "growth",
            "How the store grows",
            merged,
            packages=("numpy", "pyarrow", "duckdb"),
            notes=[
                f"{V} crops x {D} channels, shards of {SHARD_ROWS}; fsync off while building; a fresh process a verb, "
                f"least processor seconds of {options.runs} runs, imports done",
                "requests: what the code for object stores would ask an S3 API (a LIST is a page of 1,000 names)",
            ],
        )
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
