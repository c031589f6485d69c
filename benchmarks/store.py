"""The store's reading speed against np.memmap and plain zarr, on the same values in one run.

python benchmarks/store.py [--rows 32768] [--folder DIR] [--short]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from pipeline import FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy
from pipeline.sets.blocks import FeatureBlock
from pipeline.store.compact import compact_store

V, D, BATCH, NUM_BATCHES = 16, 768, 512, 32
CROPS, FEATURES = "train16", "bench"


def build(folder: Path, num_rows: int, num_crops: int = V, dim: int = D, shard_rows: int = 256) -> float:
    """Write a store of random features and, beside it, the same values for np.memmap; return bytes/s of writing."""
    store = FeatureStore.create(folder / "store")
    ds = store.create_dataset("bench", shard_rows=shard_rows)
    ids = [f"videos/{i:08d}.mp4" for i in range(num_rows)]
    ds.append_videos(pa.table({"video_id": ids, "sha256": [f"{i:064x}" for i in range(num_rows)]}))
    ds.define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=num_crops))
    writer = ds.writer(CROPS, FEATURES, {"backbone": "bench"}, dim)
    flat = np.memmap(folder / "flat.dat", np.float16, "w+", shape=(num_rows, num_crops, dim))
    np.memmap(folder / "valid.dat", bool, "w+", shape=(num_rows, num_crops))[:] = True
    np.memmap(folder / "geometry.dat", np.float32, "w+", shape=(num_rows, num_crops, 9))[:] = 1
    rng = np.random.default_rng(0)
    spent = written = 0.0
    for task in writer.todo():
        n = len(task)
        values = rng.standard_normal((n, num_crops, dim), dtype=np.float32).astype(np.float16)
        valid = np.ones((n, num_crops), bool)
        geometry = np.ones((n, num_crops, 9), np.float32)
        lines = [RowStatus(row, "ok") for row in task.rows.tolist()]
        start = time.perf_counter()
        writer.write(task, values, valid, geometry, lines)
        spent += time.perf_counter() - start
        written += values.nbytes
        flat[task.rows[0] : task.rows[-1] + 1] = values
    flat.flush()
    compact_store(store)  # a writer of more shards does so by itself
    return written / spent


def rates(actions: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Return the best rows/s of each action, taken in turns so that a busy moment of the machine hits all of them."""
    best = dict.fromkeys(actions, 0.0)
    for _ in range(rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            n = action()
            best[name] = max(best[name], n / (time.perf_counter() - start))
    return best


def batch_rates(actions: dict[str, Callable[[], Iterator[object]]], rounds: int) -> dict[str, float]:
    """Return the rows/s of each action's batches, taken in turns, each batch timed by itself.

    A batch takes a millisecond, less than a time slice: the lower quartile of all of them is what batches cost that
    nothing else interrupted, on a busy machine too. What happens once an epoch (the permutation) is not in it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            batches, batch = action(), None
            while True:
                start = time.perf_counter()
                following = next(batches, None)  # while `batch` is still held, as in any loop
                if following is None:
                    break
                seconds[name].append(time.perf_counter() - start)
                batch = following
            del batch
    return {name: BATCH / float(np.quantile(times, 0.25)) for name, times in seconds.items()}


def memmap_epoch(folder: Path, num_rows: int, out: FeatureBlock | None, *, is_checked: bool = False) -> Iterator[int]:
    """Read the same three arrays as numpy does, with `out` into memory that is there; `is_checked`: sum up each row."""
    shapes = {"flat": (np.float16, (V, D)), "valid": (bool, (V,)), "geometry": (np.float32, (V, 9))}
    arrays = [
        np.memmap(folder / f"{name}.dat", dtype, "r", shape=(num_rows, *shape))
        for name, (dtype, shape) in shapes.items()
    ]
    buffers = [] if out is None else [out.values, out.valid, out.geometry]
    order = np.random.default_rng(0).permutation(num_rows)
    for start in range(0, num_rows, BATCH):
        rows = np.sort(order[start : start + BATCH])
        for array, buffer in zip(arrays, buffers, strict=False):
            np.take(array, rows, axis=0, out=buffer[: len(rows)], mode="clip")
        if is_checked and out is not None:
            copied = out.values.view()
            copied.flags.writeable = False
            deque(map(google_crc32c.value, copied[: len(rows)].reshape(len(rows), -1)), maxlen=0)
        yield len(rows) if buffers else len([array[rows] for array in arrays])


FIRST_WAYS = {
    "memmap": "np.memmap[sorted rows] of values, valid and geometry",
    "take": "np.take(memmap, out=buffer) of the same",
    "checked": "np.take(memmap, out=buffer) of the same, and the crc32c of every row",
    "batches": "batches(out=buffer), every row held to its checksum",
}


def first_epoch(folder: Path, num_rows: int, way: str) -> float:
    """Return the seconds of the first shuffled epoch of a fresh process."""
    command = [sys.executable, "-m", "benchmarks._first_epoch", str(folder), str(num_rows), way]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["seconds"])


def first_epochs(folder: Path, num_rows: int, when: str, rounds: int = 7) -> list[dict[str, object]]:
    """Compare the first shuffled epoch of fresh processes, in turns; the middle one of each way."""
    seconds: dict[str, list[float]] = {way: [] for way in FIRST_WAYS}
    for _ in range(rounds):
        for way in FIRST_WAYS:
            seconds[way].append(first_epoch(folder, num_rows, way))
    middle = {way: sorted(times)[len(times) // 2] for way, times in seconds.items()}
    return [
        {
            "what": f"first epoch of a process, {when}: {what}",
            "rows/s": f"{num_rows / middle[way]:,.0f}",
            "ratio": "1" if way == "memmap" else f"{middle[way] / middle['memmap']:.2f} x memmap's time",
        }
        for way, what in FIRST_WAYS.items()
    ]


def forget(folder: Path) -> None:
    """Take all files of a folder out of the page cache, as a night of other work does."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def later_epochs(folder: Path, num_rows: int, rounds: int = 7) -> list[dict[str, object]]:
    """Compare whole epochs of one process after its first, one way after the other."""
    out = FeatureBlock.empty(BATCH, V, D, "float16")
    sel = FeatureStore.open(folder / "store").dataset("bench").select()

    def exhaust(batches: Iterator[object]) -> int:
        deque(batches, maxlen=0)
        return num_rows

    ways = {
        "memmap": lambda: exhaust(memmap_epoch(folder, num_rows, None)),
        "take": lambda: exhaust(memmap_epoch(folder, num_rows, out)),
        "batches": lambda: exhaust(sel.batches(CROPS, FEATURES, batch_size=BATCH, mode="host", out=out)),
    }
    rates(ways, rounds=1)
    found = rates(ways, rounds)
    return [
        {
            "what": f"whole epochs after the first, in turns: {FIRST_WAYS[way].partition(', every')[0]}",
            "rows/s": f"{speed:,.0f}",
            "ratio": "1" if way == "take" else f"{speed / found['take']:.2f} x np.take(out=buffer)",
        }
        for way, speed in found.items()
    ]


def latency(code: str) -> float:
    """Return the seconds that a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    return float(done.stdout.strip().splitlines()[-1])


def minibatches(folder: Path, num_rows: int) -> list[dict[str, object]]:
    """Compare random minibatches and scans."""
    import zarr

    flat = np.memmap(folder / "flat.dat", np.float16, "r", shape=(num_rows, V, D))
    small = [
        np.memmap(folder / "valid.dat", bool, "r", shape=(num_rows, V)),
        np.memmap(folder / "geometry.dat", np.float32, "r", shape=(num_rows, V, 9)),
    ]
    rng = np.random.default_rng(1)
    picks = [rng.choice(num_rows, BATCH, replace=False) for _ in range(NUM_BATCHES)]
    ds = FeatureStore.open(folder / "store").dataset("bench")
    sel = ds.select()
    start = time.perf_counter()
    for shard in range(ds.num_shards):
        ds._reader(CROPS, FEATURES).check_all(shard)
    first_touch = num_rows / (time.perf_counter() - start)
    start = time.perf_counter()
    int(np.add.reduce(flat.reshape(-1).view(np.uint8)[::4096], dtype=np.int64))  # every page is in the cache now
    out = FeatureBlock.empty(BATCH, V, D, "float16")

    def memmap() -> Iterator[int]:
        """Drop each batch at once: all of them can lie in the same memory."""
        for pick in picks:
            yield len(flat[pick])

    def memmap_all() -> Iterator[int]:
        """Read what a batch of ours holds, too."""
        for pick in picks:
            yield len([flat[pick], *(array[pick] for array in small)])

    def memmap_kept() -> Iterator[np.ndarray]:
        for pick in picks:
            yield flat[pick]

    def memmap_sorted() -> Iterator[int]:
        for pick in picks:
            yield len(flat[np.sort(pick)])

    def ours(buffer: FeatureBlock | None) -> Iterator[FeatureBlock]:
        return islice(sel.batches(CROPS, FEATURES, batch_size=BATCH, mode="host", out=buffer), NUM_BATCHES)

    array = zarr.open_array(folder / "store/bench/crops" / CROPS / "features" / FEATURES / "values", mode="r")

    def zarr_oindex() -> int:
        array.oindex[np.sort(picks[0])]
        return BATCH

    def zarr_scan() -> int:
        n = min(num_rows, 4096)
        for at in range(0, n, 256):
            array[at : at + 256]
        return n

    def scan() -> int:
        """Read every byte once: each shard copied out of its map."""
        for batch in sel.batches(CROPS, FEATURES, batch_size=256, shuffle=False, mode="host", out=out):
            batch.rows[0]
        return num_rows

    def scan_views() -> int:
        """Sum every shard's view where it lies: reading with no copy at all."""
        for at in range(0, num_rows, 256):
            block = ds.select(rows=np.arange(at, min(at + 256, num_rows))).features(CROPS, FEATURES)
            block.values.view(np.uint16).max()
        return num_rows

    def stream() -> int:
        for batch in sel.batches(CROPS, FEATURES, batch_size=BATCH, mode="stream", block_bytes=256 << 20, out=out):
            batch.rows[0]
        return num_rows

    deque(ours(out), maxlen=0)
    random = batch_rates(
        {
            "memmap": memmap,
            "memmap, rows sorted": memmap_sorted,
            "memmap, valid and geometry too": memmap_all,
            "memmap, batch kept": memmap_kept,
            "batches(out=buffer)": lambda: ours(out),
            "batches()": lambda: ours(None),
        },
        rounds=15,
    )
    whole = rates({"zarr": zarr_scan, "batches": scan, "views": scan_views, "stream": stream}, rounds=3)
    base, scanned, by_zarr = random["memmap"], whole["zarr"], rates({"zarr": zarr_oindex}, rounds=2)["zarr"]
    same = random["memmap, valid and geometry too"]
    rows = [
        ("minibatch of 512: np.memmap[rows]", base, 1.0, ""),
        ("minibatch of 512: np.memmap[sorted rows]", random["memmap, rows sorted"], base, "memmap"),
        ("minibatch of 512: np.memmap[rows] of values, valid and geometry", same, base, "memmap"),
        (
            "minibatch of 512: batches(out=buffer), valid and geometry too",
            random["batches(out=buffer)"],
            base,
            "memmap",
        ),
        (
            "minibatch of 512: batches(out=buffer), valid and geometry too",
            random["batches(out=buffer)"],
            same,
            "memmap of the same three arrays",
        ),
        ("minibatch of 512: batches(), valid and geometry too", random["batches()"], base, "memmap"),
        (
            "minibatch of 512: batches(), valid and geometry too",
            random["batches()"],
            random["memmap, batch kept"],
            "memmap whose batch is kept until the next",
        ),
        ("minibatch of 512: zarr-python oindex", by_zarr, base, "memmap"),
        ("minibatch of 512: batches(out=buffer)", random["batches(out=buffer)"], by_zarr, "zarr oindex"),
        ("scan: zarr-python, a shard at a time", scanned, 1.0, ""),
        ("scan: batches(shuffle=False, out=buffer)", whole["batches"], scanned, "zarr scan"),
        ("scan: views of whole shards, max() of each", whole["views"], scanned, "zarr scan"),
        ("epoch: batches(mode='stream', 256 MiB), checksums included", whole["stream"], scanned, "zarr scan"),
        ("first touch: every row's checksum", first_touch, base, "memmap"),
    ]
    return [
        {"what": what, "rows/s": f"{speed:,.0f}", "ratio": "1" if not to else f"{speed / ref:.2f} x {to}"}
        for what, speed, ref, to in rows
    ]


def latencies(folder: Path, num_videos: int) -> list[dict[str, object]]:
    """Time the opening of a store of many shards and the lookup of one video, each in a fresh process."""
    build(folder, num_videos, num_crops=2, dim=64, shard_rows=num_videos // 1000)
    head = f"import time; t=time.perf_counter(); from pipeline import FeatureStore; s={str(folder / 'store')!r}\n"
    end = "print(time.perf_counter()-t)"
    opened = "ds=FeatureStore.open(s).dataset('bench'); ds.num_rows\n"
    sel = f"ds.select(video_ids=['videos/{num_videos // 2:08d}.mp4']).features({CROPS!r},{FEATURES!r})\n"
    again = f"ds.select(video_ids=['videos/{num_videos // 3:08d}.mp4']).features({CROPS!r},{FEATURES!r})\n"
    reset = "t=time.perf_counter()\n"
    cases = [
        ("import pipeline", "import time; t=time.perf_counter(); import pipeline\n" + end, 0.5),
        (
            "open store, pin dataset (imports done)",
            head + "import pipeline.store.dataset\n" + reset + opened + end,
            0.2,
        ),
        ("open store, pin dataset, imports included", head + opened + end, None),
        ("features of one video by id, first in the process", head + opened + reset + sel + end, None),
        ("features of one video by id, another shard", head + opened + sel + reset + again + end, 0.005),
        ("catalogue as a table", head + opened + reset + "ds.videos\n" + end, None),
        ("status of every video", head + opened + reset + f"ds.status({CROPS!r},{FEATURES!r})\n" + end, None),
        ("snapshot id", head + opened + reset + "ds.snapshot()\n" + end, None),
    ]
    rows: list[dict[str, object]] = []
    for what, code, limit in cases:
        seconds = min(latency(code) for _ in range(3))
        rows.append(
            {"what": what, "ms": f"{seconds * 1e3:.1f}", "limit ms": "" if limit is None else f"{limit * 1e3:.0f}"}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=32768)
    parser.add_argument("--videos", type=int, default=250_000)
    parser.add_argument("--short", action="store_true", help="an eighth of the sizes")
    parser.add_argument("--folder", type=Path, help="where to put the data (1.7 GB)")
    parser.add_argument("--only", choices=["speed", "latency"], help="one of the two tables")
    args = parser.parse_args()
    rows, videos = (args.rows // 8, args.videos // 8) if args.short else (args.rows, args.videos)
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=args.folder))
    packages = ("numpy", "zarr", "pyarrow", "google-crc32c")
    try:
        if args.only != "latency":
            (folder / "speed").mkdir()
            speed = build(folder / "speed", rows)
            notes = [
                f"({rows}, {V}, {D}) float16 in shards of 256 rows, local, page cache warm; minibatches: lower "
                f"quartile of {15 * NUM_BATCHES} taken in turns; others: best of several runs; "
                "first epochs: the middle of 7 fresh processes each, `buffer` being memory that was used before",
                f"writing: {speed / 1e6:,.0f} MB/s of values, checksums, digests and fsync included",
            ]
            table = minibatches(folder / "speed", rows) + later_epochs(folder / "speed", rows)
            table += first_epochs(folder / "speed", rows, "files just written")
            forget(folder / "speed")
            for way in FIRST_WAYS:
                first_epoch(folder / "speed", rows, way)  # each reads its own files from the disk
            table += first_epochs(folder / "speed", rows, "files read by such a process before")
            write_results("store", "Reading the store", table, packages=packages, notes=notes)
        if args.only != "speed":
            (folder / "many").mkdir()
            notes = [f"{videos:,} videos in 1,000 shards; a fresh process each, best of 3"]
            table = latencies(folder / "many", videos)
            write_results("store_latency", "Opening and looking up", table, packages=packages, notes=notes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
