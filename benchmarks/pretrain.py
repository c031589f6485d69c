"""The systems that pretrain a backbone against its random initialisation, on videos that the project draws.

    python -m benchmarks.pretrain --folder FOLDER             # again for what is left; --only cvrl for one
    python -m benchmarks.pretrain --folder FOLDER --short     # one seed, a few epochs: whether everything runs
    python -m benchmarks.pretrain --report

Recipes: flows/recipes/pretraining.yaml. The figure is the kNN probe (k = 20) on the third of the videos that is held
out, six motions, before the first step and after the last; three seeds of weights, order and augmentation. Nothing is
chosen by it. Each run is a line of benchmarks/results/pretrain.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))  # behind: a benchmark is called extract, too

import numpy as np
import torch
from _table import RESULTS, commit, write_results
from scipy import stats

from aggregate.pretraining.clip_model import ClipModel
from aggregate.pretraining.neighbours import knn_accuracy
from aggregate.pretraining.pretrainer import Pretrainer
from aggregate.training.checkpoint import CheckpointFolder
from extract.clips.supply import supply_clips
from extract.movers import write_singles
from flows.runner import run_recipe
from pipeline import FeatureStore
from pipeline.compute.clips import ClipSource
from pipeline.recipe import load_recipe
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "flows" / "recipes" / "pretraining.yaml"
RECORDS = RESULTS / "pretrain.jsonl"
SEEDS = (0, 1, 2)


def measure(
    store: FeatureStore, settings: Settings, name: str, seed: int, epochs: int | None, folder: Path
) -> dict[str, Any]:
    """Pretrain once, from where it was stopped; return the probe before and after, and what it cost."""
    recipe = load_recipe(RECIPE)
    spec = recipe.pretrain[name].model_copy(update={"seed": seed} | ({} if epochs is None else {"epochs": epochs}))
    device = torch.device("cpu")
    supply = supply_clips(spec, store.dataset(recipe.dataset.name), settings, device)
    stream = spec.streams[0]
    encoder, dim = supply.encoders[stream]
    try:
        drawn = knn_accuracy(supply.source, ClipModel(encoder, dim, 8, 8), stream)
        started, cpu = time.perf_counter(), time.process_time()
        checkpoints = CheckpointFolder(folder, {"spec": spec.model_dump(mode="json")}, keep=1)
        made = {"device": device, "checkpoints": checkpoints, "checkpoint_s": 10.0}
        trainer = Pretrainer(name, supply.source, supply.encoders, spec, **made)
        result = trainer.fit()
        seconds, processor_s = time.perf_counter() - started, time.process_time() - cpu
        costs = {
            "seconds": round(seconds, 1), "processor_s": round(processor_s, 1),
            "clips_per_s": round(result.num_clips / seconds, 1),
            "bare_clips_per_s": round(bare_rate(trainer, supply.source), 1),
        }  # fmt: skip
        supply.clear()
    finally:
        supply.source.close()
    held_out = supply.source.held_out
    return {
        "system": name, "seed": seed, "epochs": spec.epochs, "steps": result.num_steps, "random": drawn,
        "learned": result.history[-1]["knn_top1"], "held_out": 0 if held_out is None else len(held_out.rows),
        "loss": result.history[-1]["loss"], "commit": commit(), "date": datetime.now(UTC).date().isoformat(),
    } | (costs if result.resumed_from == 0 else {})  # fmt: skip


def bare_rate(trainer: Pretrainer, source: ClipSource, steps: int = 8) -> float:
    """Clips a second of the training step alone, on a batch that is there: what decoding and augmenting cost beside."""
    batch = next(iter(source.batches(0, 1)))
    trainer.learner.models.train()
    trainer.learner.step(1, batch)
    started = time.perf_counter()
    for _ in range(steps):
        trainer.learner.step(1, batch)
    return steps * batch.num_valid / (time.perf_counter() - started)


def spread(values: Sequence[float], num_videos: int) -> str:
    """Mean and 95 % t-interval over the seeds, in points; of one seed alone the Wilson interval over its videos."""
    x = 100 * np.asarray(values)
    if len(x) < 2:
        low, high = stats.binomtest(round(values[0] * num_videos), num_videos).proportion_ci(method="wilson")
        return f"{x[0]:.1f} ({100 * low:.1f} - {100 * high:.1f})"
    return f"{x.mean():.1f} ± {half_width(x):.1f}"


def half_width(x: np.ndarray) -> float:
    """Half of the 95 % t-interval of a mean."""
    return float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))


def average(values: Sequence[float], digits: int) -> str:
    """Mean as text; a dash where there is none."""
    return f"{np.mean(values):.{digits}f}" if values else "-"


def report(records: Sequence[dict[str, Any]]) -> None:
    rows = []
    for name in dict.fromkeys(r["system"] for r in records):
        own = [r for r in records if r["system"] == name]
        gains = 100 * np.array([r["learned"] - r["random"] for r in own])
        count = own[0]["held_out"]
        whole = [r for r in own if "seconds" in r]  # one that was stopped and went on says nothing of what it costs
        rows.append(
            {
                "system": name,
                "seeds": len(own),
                "random weights, kNN %": spread([r["random"] for r in own], count),
                "pretrained, kNN %": spread([r["learned"] for r in own], count),
                "gain, points": f"{gains.mean():+.1f}" + (f" ± {half_width(gains):.1f}" if len(gains) > 1 else ""),
                "steps": own[0]["steps"],
                "processor s": average([r["processor_s"] for r in whole], 0),
                "clips/s": average([r["clips_per_s"] for r in whole], 0),
                "of the bare step": average([r["clips_per_s"] / r["bare_clips_per_s"] for r in whole], 2),
            }
        )
    notes = (
        f"{records[0]['held_out']} held-out videos, six motions (chance 16.7 %); flows/recipes/pretraining.yaml",
        "95 % intervals: t over seeds, or Wilson's over videos where there is one seed; gain: paired by seed",
        "processor s: of this process, decoding not counted; clips/s: beside other work on the same two cores",
    )
    write_results("pretrain", "Pretraining against random weights", rows, packages=("torch",), notes=notes)


def main() -> None:
    """Measure what is left, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", action="append")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    kept = [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.is_file() else []
    if args.folder is not None:
        write_singles(args.folder / "videos", videos_per_motion=24, seed=2)
        recipe = load_recipe(RECIPE)
        settings = Settings(store=str(args.folder / "store"), data=args.folder / "videos", cache=args.folder / "cache")
        store = FeatureStore.open_or_create(settings.store)
        run_recipe(recipe, store, settings, stages=["catalog"])
        for seed in SEEDS[:1] if args.short else SEEDS:
            for name in args.only or recipe.pretrain:
                known = any(r["system"] == name and r["seed"] == seed for r in kept)
                if (known and not args.short) or (time.monotonic() - started) / 60 > args.minutes:
                    continue
                kept_in = args.folder / "checkpoints" / f"{name}-{seed}"
                found = measure(store, settings, name, seed, 2 if args.short else None, kept_in)
                print(json.dumps(found), flush=True)
                if not args.short:
                    kept.append(found)
                    with RECORDS.open("a") as file:
                        file.write(json.dumps(found) + "\n")
    if args.report or (kept and not args.short):
        report(kept)


if __name__ == "__main__":
    main()
