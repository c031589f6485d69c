"""What a step of pretraining a large network costs, and where the time goes: slow_r50 on 16 frames of 224 px.

    python -m benchmarks.pretrain_large --folder FOLDER --videos DATA/jhmdb12 [--device cuda]

On the processor that is there, with all its cores; two videos of two clips a step. Processor time, which a busy machine
hardly changes. On a GPU: eight videos of two clips a step, bfloat16, by the clock, waiting for the device after each
part.
"""

from __future__ import annotations

import argparse
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
from pipeline.compute.threads import num_cores
from pipeline.recipe import parse_recipe
from pipeline.settings import Settings

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


def seconds(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Return the processor time of this process, or the time until a GPU is done, and what the work returns."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started, result


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(num_cores())
    device = torch.device(args.device)
    on_cpu = device.type == "cpu"
    num_videos, num_steps, batch_size = (8, 1, 2) if on_cpu else (32, 6, 8)
    RECIPE["pretrain"]["slow"]["batch_size"] = batch_size
    RECIPE["pretrain"]["slow"]["epochs"] = 8  # as many steps as are taken, however few the videos
    every = sorted(args.videos.rglob("*.avi"))
    for source in every[:: max(1, len(every) // num_videos)][:num_videos]:
        link = args.folder / "videos" / source.parent.name / source.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(source)
    recipe = parse_recipe(RECIPE, source="benchmarks/pretrain_large.py")
    settings = Settings(
        store=str(args.folder / "store"), data=args.folder / "videos", cache=args.folder / "cache", device=args.device
    )
    store = FeatureStore.open_or_create(settings.store)
    run_recipe(recipe, store, settings, stages=["catalog"])
    spec = recipe.pretrain["slow"]
    supply = supply_clips(spec, store.dataset(recipe.dataset.name), settings, device)
    try:
        learner = Pretrainer("slow", supply.source, supply.encoders, spec, device=device).learner
        learner.models.train()
        num_videos = supply.source.num_videos
        batches = supply.source.batches(0, 1 + num_steps)
        started = time.perf_counter()
        batch = next(batches)
        decode_s = time.perf_counter() - started  # by the clock: other processes decode
        clips = batch.num_valid
        if not on_cpu:  # what a device does once is nobody's step
            for _ in range(2):
                learner.step(0, batch)
        with torch.no_grad(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=learner.autocast):
            for _ in range(1 if on_cpu else 3):
                forward_s, _ = seconds(lambda: learner.main(batch.clips["rgb"], batch.valid), device)
        feed_s = step_s = 0.0
        for number in range(num_steps):
            spent, batch = seconds(lambda: next(batches), device)
            feed_s += spent / num_steps
            spent, _ = seconds(lambda number=number, batch=batch: learner.step(number, batch), device)
            step_s += spent / num_steps
    finally:
        supply.clear()
        supply.source.close()
    decoded, (unit, digits) = (
        num_videos * spec.clips.num_crops,
        ("processor ms a clip", 0) if on_cpu else ("ms a clip", 1),
    )
    rows: list[dict[str, object]] = [
        {
            "part": "decode, once in `reuse` epochs (by the clock)",
            unit: f"{1e3 * decode_s / decoded:.{digits}f}",
        },
        {"part": "read and augment", unit: f"{1e3 * feed_s / clips:.{digits}f}"},
        {"part": "training step", unit: f"{1e3 * step_s / clips:.{digits}f}"},
        {"part": "  of it as much as a forward pass alone", unit: f"{1e3 * forward_s / clips:.{digits}f}"},
    ]
    whole, bare = clips / (feed_s + step_s), clips / step_s
    per, precision = ("processor second", "float32") if on_cpu else ("second", "bfloat16")
    notes = [
        f"{clips} clips a step, {precision}; {whole:.3f} clips a {per} with reading and augmenting, {bare:.3f} "
        f"of the bare step: {whole / bare:.3f}",
    ]
    if not on_cpu:
        peak = torch.cuda.max_memory_allocated(device) / 2**30
        notes.append(f"{torch.cuda.get_device_name(device)}, peak memory {peak:.1f} GiB")
    page = "pretrain_large" if on_cpu else f"pretrain_large_{device.type}"
    write_results(page, "slow_r50 on 16 frames of 224 px", rows, packages=("torch",), notes=notes)


if __name__ == "__main__":
    main()
