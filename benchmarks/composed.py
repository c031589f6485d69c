"""Every system on real videos composed of known actions, whose class is their order; and how many videos it takes.

    python -m benchmarks.compose_videos make orders.csv --data DATA --out COMPOSED
    scale extract benchmarks/recipes/composed_orders.yaml --data COMPOSED --weights DATA/weights --store STORE
    python -m benchmarks.composed --store STORE --minutes 30      # again for what is left
    python -m benchmarks.composed --report

One configuration for all systems, as many steps for all numbers of training videos; nothing is chosen on test videos. A
seed draws which training videos are left where there are fewer, and trains the network. Each run is a line of
benchmarks/results/composed.jsonl.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _intervals import accuracy, difference
from _probing import knn_hits, linear_hits
from _table import RESULTS, commit, write_results
from systems import SYSTEMS, Side, side_of, write_between_markers

import aggregate
from aggregate.data.rows import frame_sizes
from pipeline import FeatureStore
from pipeline.readouts.joining import fit_joined
from pipeline.readouts.moments import moments

RECORDS = RESULTS / "composed.jsonl"
RGB, TGRAD = ("frames", "mobilenet_v2"), ("frames", "mobilenet_v2-tgrad")
SEEDS = range(5)
NUM_TRAIN = (96, 48, 24)
STEPS, MORE_STEPS, BATCH = 300, 1500, 48
TRAINING: dict[str, Any] = {
    "batch_size": BATCH, "set_size": 9, "learning_rate": 1e-3, "device": "cpu",
    "model": {"dim": 64, "num_heads": 4, "head_hidden_dim": 256, "target_hidden_dim": 128},
}  # fmt: skip
PARTS = {"mean": ("mean",), "mean + cosines": ("mean", "cos1", "cos2"), "moments": ("mean", "cos1", "cos2", "std")}
READOUTS = tuple(PARTS)
TRAINED = {name: options for name, options in SYSTEMS.items() if "mined" not in name and "normalise" not in options}
LONGER = {
    f"{name}, {MORE_STEPS:,} steps": SYSTEMS[name]
    for name in ("SCALE", "order contrast", "order contrast, own orders", "SCALE + order contrast")
}


def fewer(train: Side, number: int, seed: int) -> np.ndarray:
    """Return which training videos are kept, as many of each class, positions ascending."""
    rng, kept = np.random.default_rng(seed), []
    for label in np.unique(train.labels):
        own = np.flatnonzero(train.labels == label)
        kept += rng.permutation(own)[: number // len(np.unique(train.labels))].tolist()
    return np.sort(kept)


class Videos:
    """Both sides' crops in both streams."""

    def __init__(self, store: str) -> None:
        ds = FeatureStore.open(store).dataset("composed")
        self.sides = tuple(side_of(ds, "1", name) for name in ("train", "test"))
        self.arrays, self.motion, self.sizes = [], [], []
        for side in self.sides:
            selection = ds.select(rows=side.rows)
            rgb, tgrad = (selection.features(*pair) for pair in (RGB, TGRAD))
            self.arrays.append((np.array(rgb.values), np.array(rgb.geometry), np.array(rgb.valid & tgrad.valid)))
            self.motion.append(np.array(tgrad.values))
            self.sizes.append(frame_sizes(selection.videos))

    def vectors(self, label: str, kept: np.ndarray, seed: int) -> list[np.ndarray]:
        """Return what a row makes of the training videos that are kept, and of the test videos."""
        if label in PARTS:
            found = [moments(x.astype(np.float32), valid, where) for x, where, valid in self.arrays]
            parts = [[one[name] for name in PARTS[label]] for one in found]
            parts[0] = [x[kept] for x in parts[0]]
            fitted = fit_joined(parts[0])
            return [fitted(one) for one in parts]
        ours = tuple(x[kept] for x in self.arrays[0])
        own, steps = (LONGER[label], MORE_STEPS) if label in LONGER else (TRAINED[label], STEPS)
        model = {**TRAINING["model"], "geometry": own.get("model", {}).get("geometry", "all")}
        epochs = max(1, round(steps / -(-len(kept) // BATCH)))
        result = aggregate.train(
            *ours, group_ids=self.sides[0].group_numbers[kept], more_features=[self.motion[0][kept]], seed=seed,
            **{**TRAINING, **own, "model": model, "epochs": epochs},
        )  # fmt: skip
        both = zip((ours, self.arrays[1]), (self.sizes[0][kept], self.sizes[1]), strict=True)
        return [aggregate.embed(result.model, *arrays, frame_size_px=sizes)[0].numpy() for arrays, sizes in both]


def run(store: str, minutes: float, seeds: Sequence[int], only: set[str], numbers: Sequence[int]) -> None:
    """Run what the record lacks of some seeds, all systems with all videos before any with fewer."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    done = {(r["label"], r["num_train"], r["seed"]) for r in map(json.loads, lines)}
    until = time.monotonic() + 60 * minutes
    videos = Videos(store)
    train, test = videos.sides
    todo: list[tuple[str, int, int]] = []
    for number, labels, seed in itertools.product(numbers, ((*READOUTS, *TRAINED), tuple(LONGER)), seeds):
        todo += [(label, number, seed) for label in labels if not only or label in only]
    for label, number, seed in todo:
        if (label, number, seed) in done or time.monotonic() > until:
            continue
        started = time.process_time()
        kept = fewer(train, number, seed)
        a, b = videos.vectors(label, kept, seed)
        made = round(time.process_time() - started, 1)
        hits = {
            "knn": knn_hits(a, train.labels[kept], b, test.labels),
            "linear": linear_hits(a, train.labels[kept], b, test.labels),
        }
        record = {
            "label": label, "num_train": number, "seed": seed, "split": "1", "groups": test.groups,
            **{k: round(float(v.mean()), 4) for k, v in hits.items()}, "processor_s": made, "commit": commit(),
            "hits": {k: "".join("01"[int(x)] for x in v) for k, v in hits.items()},
        }  # fmt: skip
        with RECORDS.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print({k: v for k, v in record.items() if k not in ("hits", "groups")}, flush=True)


def report() -> None:
    """Write the table from the records."""
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    rows: list[dict[str, object]] = []
    for label in (*READOUTS, *TRAINED, *LONGER):
        row: dict[str, object] = {"": label}
        for number in NUM_TRAIN:
            found, mean = (
                [r for r in records if r["label"] == name and r["num_train"] == number] for name in (label, "mean")
            )
            if not found:
                continue
            row[f"{number} videos: seeds"] = len(found)
            for figure in ("knn", "linear"):
                row[f"{number}: {figure}"] = accuracy(found, figure)
                if number == NUM_TRAIN[0]:
                    row[f"{figure}, to the mean"] = difference(found, mean, figure)
        seconds = [r["processor_s"] for r in records if r["label"] == label]
        if seconds:
            rows.append(row | {"processor s": round(float(np.mean(seconds)), 1)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    rows = [{key: row.get(key, "") for key in columns} for row in rows]
    write_between_markers("systems-measured.md", "composed_orders", rows)
    write_results("composed", "Systems on composed real videos", rows, packages=("torch", "numpy"), notes=(
        f"Six orders of three actions (chance 16.7 %), 60 test videos, {STEPS} steps (or as said) for any number of "
        "training videos. Mean over seeds, video by video; 95 % bootstrap over the test videos' first clips.",
    ))  # fmt: skip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--seed", type=int, action="append", help="these alone, so that two processes can share the work"
    )
    parser.add_argument("--only", default="", help="labels, separated by semicolons")
    parser.add_argument("--videos", type=int, action="append", choices=NUM_TRAIN, help="train on so many alone")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        only = set(filter(None, args.only.split(";")))
        run(args.store, args.minutes, args.seed or SEEDS, only, args.videos or NUM_TRAIN)
    report()


if __name__ == "__main__":
    main()
