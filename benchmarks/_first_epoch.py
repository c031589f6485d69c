"""The first shuffled epoch of a process, by one way, over the arrays that `benchmarks/store.py` built: prints JSON.

python -m benchmarks._first_epoch FOLDER ROWS {memmap,take,checked,batches}

What is imported and opened before the first batch is asked for is not counted, mapping and checking are.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy.random  # noqa: F401  (imported late)

from benchmarks.store import BATCH, CROPS, FEATURES, D, V, memmap_epoch
from pipeline import FeatureStore
from pipeline.sets.blocks import FeatureBlock
from pipeline.sets.gather import HostGather  # noqa: F401  (imported late, too)


def main() -> None:
    folder, num_rows, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    out = None if way == "memmap" else FeatureBlock.empty(BATCH, V, D, "float16")
    for buffer in () if out is None else (out.values, out.valid, out.geometry):
        buffer[:] = 0  # memory that is there, as any batch but a process's very first finds it
    batches: Iterator[object] = memmap_epoch(folder, num_rows, out, is_checked=way == "checked")
    if way == "batches":
        sel = FeatureStore.open(folder / "store").dataset("bench").select()
        batches = sel.batches(CROPS, FEATURES, batch_size=BATCH, mode="host", out=out)
    started, processor = time.perf_counter(), time.process_time()
    deque(batches, maxlen=0)
    print(json.dumps({"seconds": time.perf_counter() - started, "processor": time.process_time() - processor}))


if __name__ == "__main__":
    main()
