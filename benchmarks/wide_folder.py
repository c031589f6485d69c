"""What a folder of as many files as a hundred million videos have shards costs, beside one of a thousand.

    python -m benchmarks.wide_folder [--files 390625] [--folder /where/the/store/will/be]

An array's shards lie in one folder (Zarr's own keys, without a separator that nests them). Each figure is of the
store's own backend: a shard put beside the others with fsync off, one mapped by its key, and the folder listed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks._table import write_results
from benchmarks.growth import FastDisk
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.memory import map_file
from pipeline.storage.schema import shard_key

ARRAY, SHARD = "d/crops/c/features/f/values", bytes(4120)
TRIES = 2000


def median_us(action: Callable[[int], object], shards: np.ndarray) -> float:
    """Return the median of single calls, in microseconds."""
    times = []
    for shard in shards.tolist():
        started = time.perf_counter()
        action(shard)
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times))


def row(place: Path, num_files: int) -> dict[str, object]:
    """Fill a folder and measure it."""
    backend = LocalBackend(place, FastDisk())
    folder = (place / shard_key(ARRAY, 0, 3)).parent
    folder.mkdir(parents=True)
    for shard in range(num_files):
        (place / shard_key(ARRAY, shard, 3)).write_bytes(SHARD)
    rng = np.random.default_rng(0)
    known, new = rng.integers(0, num_files, TRIES), num_files + np.arange(TRIES)
    mapped = median_us(lambda shard: map_file(backend.local_name(shard_key(ARRAY, shard, 3))), known)
    put = median_us(lambda shard: backend.put(shard_key(ARRAY, shard, 3), SHARD), new)
    started = time.perf_counter()
    num_names = sum(1 for _ in backend.list(ARRAY))
    listed_s = time.perf_counter() - started
    return {
        "files in the folder": f"{num_files:,}",
        "map one": f"{mapped:.0f} us",
        "put one": f"{put:.0f} us",
        "list": f"{listed_s:.2f} s, {1e6 * listed_s / num_names:.1f} us a name",
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[1000, 390_625])
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    rows = []
    for num_files in options.files:
        place = Path(tempfile.mkdtemp(prefix="bench-wide-", dir=options.folder))
        try:
            rows.append(row(place, num_files))
        finally:
            shutil.rmtree(place)
    write_results("wide_folder", "A folder of as many shards as a hundred million videos have", rows, notes=(
        f"files of {len(SHARD):,} bytes on the file system of the temporary folder; medians of {TRIES} calls",
    ))  # fmt: skip


if __name__ == "__main__":
    main()
