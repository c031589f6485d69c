"""Reading features from an S3 API on loopback: this project's whole-shard reads against plain zarr, in one run.

The server is moto, a Python process on the same machine: absolute numbers say little, ratios and request counts do.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._table import write_results
from pipeline import FeatureStore, RowStatus
from pipeline.recipe import RandomPolicy
from pipeline.storage.opening import open_backend
from tests.support.s3 import s3_server
from tests.support.toy_stores import geometry_of, videos

NUM_VIDEOS, NUM_CROPS, DIM, SHARD_ROWS = 2048, 16, 768, 256
NUM_BATCHES, BATCH_SIZE = 8, 128
URL = "s3://features/bench"
ARRAY = "kinetics/crops/train16/features/vit/values"


def build() -> float:
    """Write the store; return the seconds it took."""
    store = FeatureStore.create(URL)
    dataset = store.create_dataset("kinetics", shard_rows=SHARD_ROWS)
    dataset.append_videos(videos(0, NUM_VIDEOS))
    dataset.define_crop_set("train16", RandomPolicy(policy="random", num_crops=NUM_CROPS))
    writer = dataset.writer("train16", "vit", fingerprint={"backbone": "vit"}, dim=DIM)
    rng = np.random.default_rng(0)
    blocks = [rng.standard_normal((SHARD_ROWS, NUM_CROPS, DIM)).astype(np.float16) for _ in writer.todo()]
    started = time.perf_counter()
    for task, values in zip(writer.todo(), blocks, strict=True):
        lines = [RowStatus(int(row), "ok") for row in task.rows]
        with writer.claim(task):
            valid = np.ones(values.shape[:2], bool)
            writer.write(task, values, valid, geometry_of(task.rows, NUM_CROPS), lines)
    return time.perf_counter() - started


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    with s3_server() as server:
        os.environ.update(server.environment())
        write_s = build()
        mega_bytes = NUM_VIDEOS * NUM_CROPS * DIM * 2 / 1e6
        rng = np.random.default_rng(1)
        picks = [np.sort(rng.choice(NUM_VIDEOS, BATCH_SIZE, replace=False)) for _ in range(NUM_BATCHES)]
        array = zarr.open_array(open_backend(URL).zarr_store(), path=ARRAY, mode="r")

        def ours_scan() -> None:
            selection = FeatureStore.open(URL).dataset("kinetics").select()
            for batch in selection.batches("train16", "vit", batch_size=SHARD_ROWS, shuffle=False, mode="stream"):
                assert len(batch)

        def zarr_scan() -> None:
            for start in range(0, NUM_VIDEOS, SHARD_ROWS):
                assert array[start : start + SHARD_ROWS].shape

        def ours_random() -> None:
            dataset = FeatureStore.open(URL).dataset("kinetics")
            for rows in picks:
                dataset.select(rows=rows).features("train16", "vit")

        def zarr_random() -> None:
            for rows in picks:
                assert array.oindex[rows].shape

        lines: list[dict[str, object]] = []
        pairs = (
            ("sequential scan", ours_scan, zarr_scan),
            (f"{NUM_BATCHES} x {BATCH_SIZE} rows", ours_random, zarr_random),
        )
        for what, ours, theirs in pairs:
            ours_s, theirs_s = timed(ours), timed(theirs)
            lines.append(
                {"reading": what, "ours (s)": f"{ours_s:.2f}", "zarr-python (s)": f"{theirs_s:.2f}",
                 "times faster": f"{theirs_s / ours_s:.1f}"}
            )  # fmt: skip
    write_results(
        "object_store",
        "Reading from an S3 API",
        lines,
        packages=("zarr", "obstore", "moto"),
        notes=(
            f"({NUM_VIDEOS}, {NUM_CROPS}, {DIM}) float16, {mega_bytes:.0f} MB in shards of {SHARD_ROWS} rows; "
            "moto's server on loopback.",
            "Ours opens the store, fetches whole shards (values, valid and geometry) and holds every row to its ledger "
            "checksum; zarr reads the values alone: whole shards in the scan, one request a row else.",
            f"Writing it took {write_s:.1f} s ({mega_bytes / write_s:.0f} MB/s), claims, locks and ledger included.",
        ),
    )


if __name__ == "__main__":
    main()
