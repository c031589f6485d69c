"""What each part of SCALE is worth, on generated data and on real videos.

    python -m benchmarks.ablation generated [--only "main,mask ratio,..."] [--runs 3] [--minutes 10]
    python -m benchmarks.ablation jhmdb --store STORE [--dataset jhmdb12]
    python -m benchmarks.ablation report

Each single run (row, number) is a line of benchmarks/results/ablation_*.jsonl, with the
test videos that each probe got right, so that the work can be done in small pieces and
the tables of docs/learning.md be written again: `report` does that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _ablation_rows import GENERATED, JHMDB, Row, merged, rows_of_tables
from _deep_sets import DeepSets, Videos, fit_on_labels
from _latent_actions import LatentActions, generate
from _learning_page import write_page
from _probing import knn_hits, linear_hits
from _table import RESULTS, commit

import aggregate
from aggregate.data.rows import frame_sizes, group_ids
from pipeline.recipe import ModelSpec

NUM_TRAIN, NUM_TEST = 512, 400
SPLITS = ("1", "2", "3")


@dataclass(frozen=True)
class Run:
    """What a row is measured on: crops to learn from, crops to probe, and this run's options."""

    fit: Videos
    train: Videos
    test: Videos
    options: dict[str, Any]
    seed: int
    place: dict[str, Any]
    """Which world or split, for the record."""


def measure(row: Row, run: Run) -> dict[str, Any]:
    """Learn from the crops `fit` what the row says, then probe `train` against `test`.

    `knn` and `linear` see what was learned alone, `knn_joined` and `linear_joined` see it beside the pooled crops.
    """
    started = time.process_time()
    means = [run.train.pooled(), run.test.pooled()]
    learned, network, last = _learn(row, run, means)
    labels, truth = run.train.labels, run.test.labels
    pairs = zip(means, learned, strict=True)
    joined = [np.concatenate([_centred(m, means[0]), _centred(v, learned[0])], axis=1) for m, v in pairs]
    own = network is not None and row.kind == "deepsets_labels"
    hits = {
        "knn": knn_hits(learned[0], labels, learned[1], truth),
        "linear": network.hits(run.test) if own else linear_hits(learned[0], labels, learned[1], truth),
        "knn_joined": knn_hits(joined[0], labels, joined[1], truth),
        "linear_joined": linear_hits(joined[0], labels, joined[1], truth),
    }
    return {
        **{name: round(float(h.mean()), 6) for name, h in hits.items()},
        "processor_s": round(time.process_time() - started, 1),
        "last": last,
        "hits": {name: "".join("01"[int(x)] for x in h) for name, h in hits.items()},
    }


def _learn(
    row: Row, run: Run, means: list[np.ndarray]
) -> tuple[list[np.ndarray], DeepSets | None, dict[str, float | int | None]]:
    """Return what a row makes of training and test videos, its network, and the last figures of a training."""
    input_dim = run.fit.features.shape[2]
    if row.kind == "mean":
        return means, None, {}
    if row.kind.startswith("deepsets"):
        torch.manual_seed(run.seed)
        network = DeepSets(input_dim)
        if row.kind == "deepsets_labels":
            fit_on_labels(network, run.fit, run.seed)
        return [network.embed(v).numpy() for v in (run.train, run.test)], network, {}
    last: dict[str, float | int | None] = {}
    if row.kind == "random":
        torch.manual_seed(run.seed)
        model = aggregate.ScaleModel(input_dim, ModelSpec(**run.options["model"]))
    else:
        fit = run.fit
        result = aggregate.train(
            fit.features,
            fit.raw_geometry,
            fit.valid,
            group_ids=fit.groups,
            frame_size_px=fit.frame_size_px,
            seed=run.seed,
            device="cpu",
            **{"normalise": "none", **run.options},  # as all recorded rows were trained
        )
        model, last = result.model, {k: v for k, v in result.history[-1].items() if k != "lr"}
    learned = []
    for v in (run.train, run.test):
        values, _ = aggregate.embed(model, v.features, v.raw_geometry, v.valid, frame_size_px=v.frame_size_px)
        learned.append(values.numpy())
    return learned, None, last


def _centred(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract the training mean and scale to length one, so that both parts have the same say."""
    moved = values - train.mean(0)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)


def run_rows(name: str, rows: list[Row], load: Callable[[Row, int], Run], minutes: float) -> None:
    """Run what the record lacks, until the time is up."""
    path = RESULTS / f"ablation_{name}.jsonl"
    done = {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.is_file() else set()
    until = time.monotonic() + 60 * minutes
    for number in range(max(row.num_runs for row in rows)):  # every row once before any row twice
        for row in (r for r in rows if number < r.num_runs):
            run = load(row, number)
            config = {"row": asdict(row) | {"num_runs": 0}, "number": number, "options": run.options, **run.place}
            key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
            if key in done:
                continue
            if time.monotonic() > until:
                print("time is up; run the same command again for the rest")
                return
            line = {
                "key": key,
                "table": row.table,
                "label": row.label,
                "number": number,
                "seed": run.seed,
                **run.place,
                **measure(row, run),
                "date": datetime.now(UTC).date().isoformat(),
                "commit": commit(),
            }
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            shown = {k: line[k] for k in ("knn", "linear", "knn_joined", "linear_joined", "processor_s")}
            print(row.table, "|", row.label, "| run", number, shown, flush=True)


def load_generated(row: Row, number: int) -> Run:
    """Each run is a world of its own: motifs, actions, videos and training all differ."""
    config = replace(LatentActions(), **row.data)
    out = []
    for part, num in ((0, NUM_TRAIN), (1, NUM_TEST)):
        x, where, labels = generate(config, num, world=number, seed=part)
        out.append(Videos(x, where, np.ones(x.shape[:2], bool), labels, np.arange(num)))
    return Run(out[0], out[0], out[1], merged(GENERATED, row.options), number, {"world": number})


def jhmdb_loader(store: str, dataset: str) -> Callable[[Row, int], Run]:
    """Random crops of training rows to train on, the test grid to probe, as `scale run` does; the splits in turn."""
    from pipeline import FeatureStore

    ds = FeatureStore.open(store).dataset(dataset)
    names = sorted(set(ds.videos["label"].to_pylist()))
    groups = group_ids(ds.videos)

    def videos(split: str, part: str, crops: str) -> Videos:
        chosen = ds.select(f"splits['{split}'] = '{part}'")
        block = chosen.features(crops, "mobilenet_v2")
        return Videos(
            np.array(block.values, np.float32),
            np.array(block.geometry),
            np.array(block.valid),
            np.array([names.index(x) for x in chosen.videos["label"].to_pylist()]),
            groups[chosen.rows],
            frame_sizes(chosen.videos).numpy(),
        )

    loaded = {
        split: (videos(split, "train", "train16"), videos(split, "train", "grid5x3"), videos(split, "test", "grid5x3"))
        for split in SPLITS
    }

    def load(row: Row, number: int) -> Run:
        split = SPLITS[number % len(SPLITS)]
        fit, train, test = loaded[split]
        base = {**JHMDB, "batch_size": len(fit.labels) // 2}
        place = {"split": split, "groups": test.groups.tolist()}
        return Run(fit, train, test, merged(base, row.options), number // len(SPLITS), place)

    return load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generated", "jhmdb", "report"))
    parser.add_argument("--only", default="", help="tables, separated by commas")
    parser.add_argument("--runs", type=int, default=100, help="at most so many a row")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--store", default="store")
    parser.add_argument("--dataset", default="jhmdb12")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "report":
        write_page(RESULTS)
        return
    generated = args.what == "generated"
    wanted = set(filter(None, args.only.split(",")))
    rows = [
        replace(r, num_runs=min(r.num_runs, args.runs))
        for r in rows_of_tables(generated=generated)
        if not wanted or r.table in wanted
    ]
    load = load_generated if generated else jhmdb_loader(args.store, args.dataset)
    run_rows(args.what, rows, load, args.minutes)


if __name__ == "__main__":
    main()
