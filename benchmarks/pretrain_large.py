"""What a step of pretraining a large network costs, and where the time goes: slow_r50 on 16 frames of 224 px.

    python -m benchmarks.pretrain_large --folder FOLDER --videos DATA/jhmdb12

On the processor that is there, with all its cores; two videos of two clips a step. Processor time, which a busy machine
hardly changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))  # behind: a benchmark is called extract, too

import torch
from _table import write_results

from aggregate.pretraining.pretrainer import Pretrainer
from extract.clips.supply import supply_clips
from flows.runner import run_recipe
from pipeline import FeatureStore
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings

NUM_VIDEOS, NUM_STEPS = 8, 1
RECIPE: dict[str, Any] = {
    "name": "large",
    "dataset": {"name": "large", "videos": "**/*.avi", "labels": {"from": "folder"}},
    "pretrain": {
        "slow": {
            "encoder": {"network": "slow", "size_px": 224},
            "clips": {
                "policy": "random", "num_crops": 4, "num_frames": 16, "stride": 2, "short_side_px": 240, "size_px": 240,
            },
            "objective": {"kind": "ntxent", "temperature": 0.2},
            "rows": "all",
            "batch_size": 2,
            "epochs": 4,
            "reuse": 4,
        }
    },
    "crops": {
        "whole": {
            "policy": "grid", "temporal": 1, "spatial": 1, "num_frames": 16, "stride": 2, "short_side_px": 224,
            "size_px": 224,
        }
    },
    "backbones": {"slow": {"kind": "pretrained", "model": "slow"}},
}  # fmt: skip


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor time of this process, all threads together, and what the work returns."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    every = sorted(args.videos.rglob("*.avi"))
    for source in every[:: max(1, len(every) // NUM_VIDEOS)][:NUM_VIDEOS]:
        link = args.folder / "videos" / source.parent.name / source.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(source)
    recipe = parse_recipe(RECIPE, source="benchmarks/pretrain_large.py")
    settings = Settings(store=str(args.folder / "store"), data=args.folder / "videos", cache=args.folder / "cache")
    store = FeatureStore.open_or_create(settings.store)
    run_recipe(recipe, store, settings, stages=["catalog"])
    spec, device = recipe.pretrain["slow"], torch.device("cpu")
    supply = supply_clips(spec, store.dataset(recipe.dataset.name), settings, device)
    try:
        learner = Pretrainer("slow", supply.source, supply.encoders, spec, device=device).learner
        learner.models.train()
        batches = supply.source.batches(0, 1 + NUM_STEPS)
        started = time.perf_counter()
        batch = next(batches)
        decode_s = time.perf_counter() - started  # by the clock: other processes decode
        clips = batch.num_valid
        with torch.no_grad():
            forward_s, _ = seconds(lambda: learner.main(batch.clips["rgb"], batch.valid))
        feed_s = step_s = 0.0
        for number in range(NUM_STEPS):
            spent, batch = seconds(lambda: next(batches))
            feed_s += spent / NUM_STEPS
            spent, _ = seconds(lambda number=number, batch=batch: learner.step(number, batch))
            step_s += spent / NUM_STEPS
    finally:
        supply.clear()
        supply.source.close()
    decoded = NUM_VIDEOS * spec.clips.num_crops
    rows: list[dict[str, object]] = [
        {
            "part": "decode, once in `reuse` epochs (by the clock)",
            "processor ms a clip": f"{1e3 * decode_s / decoded:.0f}",
        },
        {"part": "read and augment", "processor ms a clip": f"{1e3 * feed_s / clips:.0f}"},
        {"part": "training step", "processor ms a clip": f"{1e3 * step_s / clips:.0f}"},
        {"part": "  of it as much as a forward pass alone", "processor ms a clip": f"{1e3 * forward_s / clips:.0f}"},
    ]
    whole, bare = clips / (feed_s + step_s), clips / step_s
    notes = (
        f"{clips} clips a step, float32; {whole:.3f} clips a processor second with reading and augmenting, {bare:.3f} "
        f"of the bare step: {whole / bare:.3f}",
    )
    write_results("pretrain_large", "slow_r50 on 16 frames of 224 px", rows, packages=("torch",), notes=notes)


if __name__ == "__main__":
    main()
