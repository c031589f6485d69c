"""The first shuffled epoch of a process, by one way, over the arrays that `benchmarks/store.py` built: prints JSON.

python -m benchmarks._first_epoch FOLDER ROWS {memmap,take,batches}

What is imported and opened before the first batch is asked for is not counted, mapping and checking are.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.random

from benchmarks.store import BATCH, CROPS, FEATURES, D, V
from pipeline import FeatureStore
from pipeline.sets.blocks import FeatureBlock
from pipeline.sets.gather import HostGather  # noqa: F401  (imported late, too)


def memmap(folder: Path, num_rows: int, out: FeatureBlock | None) -> Iterator[int]:
    """Read the same three arrays as numpy does, with `out` into memory that is there."""
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
        yield len(rows) if buffers else len([array[rows] for array in arrays])


def main() -> None:
    folder, num_rows, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    out = None if way == "memmap" else FeatureBlock.empty(BATCH, V, D, "float16")
    for buffer in () if out is None else (out.values, out.valid, out.geometry):
        buffer[:] = 0  # memory that is there, as any batch but a process's very first finds it
    batches: Iterator[object] = memmap(folder, num_rows, out)
    if way == "batches":
        sel = FeatureStore.open(folder / "store").dataset("bench").select()
        batches = sel.batches(CROPS, FEATURES, batch_size=BATCH, mode="host", out=out)
    started, processor = time.perf_counter(), time.process_time()
    deque(batches, maxlen=0)
    print(json.dumps({"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}))


if __name__ == "__main__":
    main()
