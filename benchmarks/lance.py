"""Videos by a condition, with their features: this store against Lance with a bitmap index on the same column.

python -m benchmarks.lance --python VENV/bin/python [--rows 32768]

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

SHAPES = ((4, 256), (16, 768))
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
seconds = []
for k in range(num_calls):
    started = time.perf_counter()
    rows, arrays = ask(k % num_labels)
    seconds.append(time.perf_counter() - started)
rows, arrays = ask(7)
order = np.argsort(rows)
same = arrays[0].reshape(len(rows), *values.shape[1:])[order]
print(json.dumps({"version": lance.__version__, "ms": sorted(seconds)[len(seconds) // 2] * 1e3, "rows": len(rows),
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


def ours(store: FeatureStore) -> tuple[float, int]:
    """Return the median of a call in ms, and how many rows each gives."""
    ds = store.dataset("d")
    for row in range(0, ds.num_rows, ds.shard_rows):  # every checksum is compared once a process
        ds.select(rows=np.arange(row, min(row + ds.shard_rows, ds.num_rows))).features("c", "f")
    seconds = []
    for k in range(-5, NUM_CALLS):
        started = time.perf_counter()
        block = ds.select(f"label = 'class{k % NUM_LABELS:03d}'").features("c", "f")
        if k >= 0:
            seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2] * 1e3, len(block)


def compare(python: str, num_rows: int, shape: tuple[int, int], folder: Path) -> tuple[dict[str, object], str]:
    store = build(folder, num_rows, shape)
    command = [python, "-c", LANCE, str(folder), str(NUM_LABELS), str(NUM_CALLS)]
    turns = []
    for _ in range(3):  # in turns, so that a busy minute does not decide
        shutil.rmtree(folder / "lance", ignore_errors=True)
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        turns.append((ours(store), json.loads(done.stdout.strip().splitlines()[-1])))
    (own, num_found), theirs = min(t[0] for t in turns), min((t[1] for t in turns), key=lambda t: t["ms"])
    assert num_found == theirs["rows"], "both find the same videos"
    row: dict[str, object] = {
        "what": f"condition on label and features of {num_found} of {num_rows:,} rows, {shape[0]} x {shape[1]} float16",
        "Lance, bitmap index": f"{theirs['ms']:.1f} ms",
        "this store": f"{own:.1f} ms",
        "ratio": f"{own / theirs['ms']:.2f}x Lance's time",
        "wanted": "at most 2x",
        "check": f"Lance's values equal the array: {theirs['equal']}; here each row is held to its checksum",
    }
    return row, str(theirs["version"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has pylance")
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--folder", type=Path, help="where to put the data (up to 3 GB)")
    options = parser.parse_args()
    rows, version = [], ""
    for shape in SHAPES:
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
