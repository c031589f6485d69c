"""Videos by a condition, with their features: this store against Lance with a bitmap index on the same column.

python -m benchmarks.lance --python VENV/bin/python [--rows 32768] [--large]

Lance (the package `pylance`) need not live beside this project: `--python` names an interpreter that has it. Both hold
the same arrays, answer in NumPy arrays, and are asked for the same labels in turn, everything open and warm.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks._table import write_results
from pipeline import FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy

SMALL, LARGE = (4, 256), (16, 768)
NUM_LABELS, NUM_CALLS = 100, 40

LANCE = """
import json, sys, time
import lance, numpy as np, pyarrow as pa
folder, num_labels, num_calls = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
values, valid, geometry = (np.load(f"{folder}/{name}.npy", mmap_mode="r") for name in ("values", "valid", "geometry"))
n = len(values)
def column(array):
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, array[0].size)
def batches():
    for at in range(0, n, 2048):
        part = slice(at, min(at + 2048, n))
        rows = np.arange(n)[part]
        columns = [pa.array(rows), pa.array([f"class{r % num_labels:03d}" for r in rows.tolist()]),
                   column(values[part]), column(valid[part].astype(np.uint8)), column(geometry[part])]
        yield pa.record_batch(columns, names=["row", "label", "values", "valid", "geometry"])
first = next(batches())
ds = lance.write_dataset(pa.RecordBatchReader.from_batches(first.schema, batches()), f"{folder}/lance")
ds.create_scalar_index("label", "BITMAP")
def ask(k):
    table = ds.to_table(filter=f"label = 'class{k:03d}'", columns=["row", "values", "valid", "geometry"])
    table = table.combine_chunks()
    names = ("values", "valid", "geometry")
    return table["row"].to_numpy(), [table[x].chunk(0).flatten().to_numpy() for x in names]
for k in range(5):
    ask(k)
seconds, busy = [], []
for k in range(num_calls):
    started, processor = time.perf_counter(), time.process_time()
    rows, arrays = ask(k % num_labels)
    seconds.append(time.perf_counter() - started)
    busy.append(time.process_time() - processor)
rows, arrays = ask(7)
order = np.argsort(rows)
same = arrays[0].reshape(len(rows), *values.shape[1:])[order]
print(json.dumps({"version": lance.__version__, "ms": sorted(seconds)[len(seconds) // 2] * 1e3,
                  "busy_ms": sorted(busy)[len(busy) // 2] * 1e3, "rows": len(rows),
                  "equal": bool(np.array_equal(same, values[np.sort(rows)]))}))
"""


def build(folder: Path, num_rows: int, shape: tuple[int, int]) -> FeatureStore:
    """Write the arrays once as files for Lance's side and once as a store."""
    num_crops, dim = shape
    rng = np.random.default_rng(0)
    arrays = {
        "values": rng.standard_normal((num_rows, num_crops, dim), np.float32).astype(np.float16),
        "valid": np.ones((num_rows, num_crops), bool),
        "geometry": rng.random((num_rows, num_crops, 9), np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    store = FeatureStore.create(folder / "store")
    ds = store.create_dataset("d")
    ds.define_crop_set("c", RandomPolicy(policy="random", num_crops=num_crops))
    ids = [f"videos/{row:08d}.mp4" for row in range(num_rows)]
    ds.append_videos(pa.table({"video_id": ids, "label": [f"class{row % NUM_LABELS:03d}" for row in range(num_rows)]}))
    writer = ds.writer("c", "f", {"backbone": "b"}, dim)
    for task in writer.todo():
        values, valid, geometry = (arrays[name][task.rows] for name in ("values", "valid", "geometry"))
        writer.write(task, values, valid, geometry, [RowStatus(row, "ok") for row in task.rows.tolist()])
    return store


def ours(store: FeatureStore) -> dict[str, float]:
    """Return the medians of a call in ms, by the clock and of the processor, and how many rows each gives."""
    ds = store.dataset("d")
    for row in range(0, ds.num_rows, ds.shard_rows):  # every checksum is compared once a process
        ds.select(rows=np.arange(row, min(row + ds.shard_rows, ds.num_rows))).features("c", "f")
    seconds, busy = [], []
    for k in range(-5, NUM_CALLS):
        started, processor = time.perf_counter(), time.process_time()
        block = ds.select(f"label = 'class{k % NUM_LABELS:03d}'").features("c", "f")
        if k >= 0:
            seconds.append(time.perf_counter() - started)
            busy.append(time.process_time() - processor)
    middle = NUM_CALLS // 2
    return {"ms": sorted(seconds)[middle] * 1e3, "busy_ms": sorted(busy)[middle] * 1e3, "rows": len(block)}


def compare(python: str, num_rows: int, shape: tuple[int, int], folder: Path) -> tuple[dict[str, object], str]:
    store = build(folder, num_rows, shape)
    command = [python, "-c", LANCE, str(folder), str(NUM_LABELS), str(NUM_CALLS)]
    turns = []
    for _ in range(3):  # in turns, so that a busy minute does not decide
        shutil.rmtree(folder / "lance", ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        turns.append((ours(store), json.loads(done.stdout.strip().splitlines()[-1])))
    own, theirs = ({name: min(turn[k][name] for turn in turns) for name in ("ms", "busy_ms", "rows")} for k in (0, 1))
    assert own["rows"] == theirs["rows"], "both find the same videos"
    row: dict[str, object] = {
        "what": f"condition on label, features of {own['rows']} of {num_rows:,} rows, {shape[0]} x {shape[1]} float16",
        "Lance, bitmap index": f"{theirs['ms']:.1f} ms, {theirs['busy_ms']:.1f} of the processor",
        "this store": f"{own['ms']:.1f} ms, {own['busy_ms']:.1f} of the processor",
        "ratio": f"{own['ms'] / theirs['ms']:.2f}x, {own['busy_ms'] / theirs['busy_ms']:.2f}x of the processor",
        "wanted": "at most 2x",
        "check": "the values that Lance gives equal the array; here each row was held to its checksum",
    }
    assert all(turn[1]["equal"] for turn in turns)
    return row, str(turns[0][1]["version"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has pylance")
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--large", action="store_true", help="also rows of 24 KiB")
    parser.add_argument("--folder", type=Path, help="where to put the data (up to 3 GB)")
    options = parser.parse_args()
    rows, version = [], ""
    for shape in (SMALL, LARGE) if options.large else (SMALL,):
        folder = Path(tempfile.mkdtemp(prefix="bench-lance-", dir=options.folder))
        try:
            row, version = compare(options.python, options.rows, shape, folder)
        finally:
            shutil.rmtree(folder)
        rows.append(row)
    notes = [
        f"pylance {version}, in an environment of its own; page cache warm, handles open, {NUM_CALLS} calls of "
        "different labels, median; best of three turns",
    ]
    write_results("lance", "A condition and its features", rows, packages=("numpy", "pyarrow", "duckdb"), notes=notes)


if __name__ == "__main__":
    main()
