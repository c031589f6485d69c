"""The systems that pretrain a backbone against its random initialisation, on videos that the project draws.

    python -m benchmarks.pretrain --folder FOLDER             # again for what is left; --only cvrl for one
    python -m benchmarks.pretrain --folder FOLDER --pace      # clips a second, alone on the machine: a few steps each
    python -m benchmarks.pretrain --folder FOLDER --short     # one seed, a few epochs: whether everything runs
    python -m benchmarks.pretrain --report

Recipes: flows/recipes/pretraining.yaml. The figure is the kNN probe (k = 20) on the half of the videos that is held
out, six motions, two clips of each for every system alike, before the first step and after the last; three
seeds of weights, order, augmentation and of which videos are held out. Nothing is chosen by it. Each run is a line of
benchmarks/results/pretrain.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))  # behind: a benchmark is called extract, too

import numpy as np
import torch
from _table import RESULTS, commit, write_results
from scipy import stats
from torch import nn

from aggregate.pretraining.clip_model import ClipModel
from aggregate.pretraining.neighbours import neighbour_hits
from aggregate.pretraining.pretrainer import Pretrainer
from aggregate.training.checkpoint import CheckpointFolder
from extract.clips.supply import supply_clips
from extract.movers import write_singles
from flows.runner import run_recipe
from pipeline import FeatureStore
from pipeline.recipe import AugmentSpec, PretrainSpec, Recipe, load_recipe
from pipeline.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "flows" / "recipes" / "pretraining.yaml"
RECORDS, PACES = RESULTS / "pretrain.jsonl", RESULTS / "pretrain_pace.jsonl"
SEEDS = (0, 1, 2)
VIDEOS_PER_MOTION = 80
PACE_STEPS = 10
CPU = torch.device("cpu")


def hits_of(store: FeatureStore, settings: Settings, recipe: Recipe, spec: PretrainSpec, encoder: nn.Module) -> Any:
    """Return of every held-out video whether its neighbours name its motion, (n,) bool."""
    whole = {"clips": recipe.crops["whole"], "views": None, "streams": spec.streams[:1], "augment": AugmentSpec()}
    asked = supply_clips(spec.model_copy(update=whole), store.dataset(recipe.dataset.name), settings, CPU)
    try:
        _, dim = asked.encoders[spec.streams[0]]
        return neighbour_hits(asked.source, ClipModel(encoder, dim, spec.head), spec.streams[0])
    finally:
        asked.source.close()


def measure(
    store: FeatureStore, settings: Settings, recipe: Recipe, name: str, spec: PretrainSpec, folder: Path
) -> dict[str, Any]:
    """Pretrain once, from where it was stopped; return the probe before and after."""
    supply = supply_clips(spec, store.dataset(recipe.dataset.name), settings, CPU)
    try:
        before = hits_of(store, settings, recipe, spec, supply.encoders[spec.streams[0]][0])
        started, cpu = time.perf_counter(), time.process_time()
        checkpoints = CheckpointFolder(folder, {"spec": spec.model_dump(mode="json")}, keep=1)
        alone = spec.model_copy(update={"probe_epochs": None})  # held-out videos are asked about here
        made = {"device": CPU, "checkpoints": checkpoints, "checkpoint_s": 20.0}
        result = Pretrainer(name, supply.source, supply.encoders, alone, **made).fit()
        seconds, processor_s = time.perf_counter() - started, time.process_time() - cpu
    finally:
        supply.source.close()
    after = hits_of(store, settings, recipe, spec, result.encoder)
    costs = {"seconds": round(seconds, 1), "processor_s": round(processor_s, 1)} if result.resumed_from == 0 else {}
    return {
        "system": name, "seed": spec.seed, "steps": result.num_steps, "held_out": len(before),
        "random": float(before.mean()), "learned": float(after.mean()),
        "gained": int((after & ~before).sum()), "lost": int((before & ~after).sum()),
        "loss": result.history[-1]["loss"], "size_px": spec.encoder.size_px,
        "commit": commit(), "date": datetime.now(UTC).date().isoformat(),
    } | costs  # fmt: skip


def pace(store: FeatureStore, settings: Settings, recipe: Recipe, name: str) -> dict[str, Any]:
    """Clips a second of the whole path and of the training step alone, on a batch that is there."""
    spec = recipe.pretrain[name].model_copy(update={"probe_epochs": None, "epochs": 2, "reuse": 2})
    supply = supply_clips(spec, store.dataset(recipe.dataset.name), settings, CPU)
    try:
        learner = Pretrainer(name, supply.source, supply.encoders, spec, device=CPU).learner
        learner.models.train()
        batches = supply.source.batches(0, PACE_STEPS + 2)
        for number in range(2):  # the first one decodes all clips
            learner.step(number, batch := next(batches))
        whole = clips_per_s(learner, islice(batches, PACE_STEPS))
        bare = clips_per_s(learner, [batch] * PACE_STEPS)
    finally:
        supply.source.close()
    return {"system": name, "clips_per_s": round(whole, 1), "bare_clips_per_s": round(bare, 1), "commit": commit()}


def clips_per_s(learner: Any, batches: Iterator[Any] | Sequence[Any]) -> float:
    """Clips a second of a step on each of these batches."""
    started, clips = time.perf_counter(), 0
    for batch in batches:
        clips += batch.num_valid
        learner.step(2, batch)
    return clips / (time.perf_counter() - started)


def t_interval(values: Sequence[float]) -> str:
    """Mean in points, and half of its 95 % t-interval over the seeds."""
    x = 100 * np.asarray(values)
    if len(x) < 2:
        return f"{x.mean():.1f}"
    return f"{x.mean():.1f} ± {stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)):.1f}"


def paired_half_width(own: Sequence[dict[str, Any]]) -> float:
    """Half of the 95 % interval of the gain over the videos of all seeds, paired: learned minus random of each."""
    n, gained, lost = (sum(r[key] for r in own) for key in ("held_out", "gained", "lost"))
    return float(100 * 1.96 * np.sqrt(gained + lost - (gained - lost) ** 2 / n) / n)


def report(records: Sequence[dict[str, Any]], paces: Sequence[dict[str, Any]]) -> None:
    """Print and keep the table."""
    rows = []
    for name in load_recipe(RECIPE).pretrain:
        own = [r for r in records if r["system"] == name]
        if not own:
            continue
        cost = next((p for p in reversed(paces) if p["system"] == name), None)
        whole = [r["processor_s"] for r in own if "processor_s" in r]  # one that went on says nothing of what it costs
        rows.append(
            {
                "system": name,
                "seeds": len(own),
                "random weights, kNN %": t_interval([r["random"] for r in own]),
                "pretrained, kNN %": t_interval([r["learned"] for r in own]),
                "gain, points": t_interval([r["learned"] - r["random"] for r in own]),
                "paired over videos": f"± {paired_half_width(own):.1f}",
                "steps": own[0]["steps"],
                "processor s": f"{np.mean(whole):.0f}" if whole else "-",
                "clips/s": "-" if cost is None else f"{cost['clips_per_s']:.0f}",
                "of the bare step": "-" if cost is None else f"{cost['clips_per_s'] / cost['bare_clips_per_s']:.2f}",
            }
        )
    asked = sorted({r["held_out"] for r in records})
    notes = (
        f"{asked[0]}-{asked[-1]} held-out videos a seed, six motions (chance 16.7 %); flows/recipes/pretraining.yaml",
        "±: 95 % t-intervals over the seeds; paired over videos: learned minus random of each, all seeds together",
        "processor s: of this process, one thread, a run; clips/s: one thread, nothing else on the machine",
    )
    write_results("pretrain", "Pretraining against random weights", rows, packages=("torch",), notes=notes)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, none where it is not there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def keep(path: Path, record: dict[str, Any]) -> None:
    """Write a record behind the others."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def main() -> None:
    """Measure what is left, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", action="append")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--pace", action="store_true")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    started = time.monotonic()
    torch.set_num_threads(1)
    if args.folder is not None:
        write_singles(args.folder / "videos", videos_per_motion=VIDEOS_PER_MOTION, seed=2)
        recipe = load_recipe(RECIPE)
        settings = Settings(store=str(args.folder / "store"), data=args.folder / "videos", cache=args.folder / "cache")
        store = FeatureStore.open_or_create(settings.store)
        run_recipe(recipe, store, settings, stages=["catalog"])
        names = args.only or list(recipe.pretrain)
        if args.pace:
            for name in names:
                keep(PACES, found := pace(store, settings, recipe, name))
                print(json.dumps(found), flush=True)
        else:
            for seed in args.seed or SEEDS[: 1 if args.short else None]:
                for name in names:
                    known = any(r["system"] == name and r["seed"] == seed for r in lines_of(RECORDS))
                    if (known and not args.short) or (time.monotonic() - started) / 60 > args.minutes:
                        continue
                    shorter = {"epochs": 2, "reuse": 2} if args.short else {}
                    spec = recipe.pretrain[name].model_copy(update={"seed": seed} | shorter)
                    kept_in = args.folder / "checkpoints" / f"{name}-{seed}"
                    found = measure(store, settings, recipe, name, spec, kept_in)
                    print(json.dumps(found), flush=True)
                    if not args.short:
                        keep(RECORDS, found)
    if args.report or not (args.short or args.pace):
        report(lines_of(RECORDS), lines_of(PACES))


if __name__ == "__main__":
    main()
