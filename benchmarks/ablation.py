"""What each part of SCALE is worth, on generated data and on real videos.

    python benchmarks/ablation.py generated [--only main,mask,...] [--minutes 10]
    python benchmarks/ablation.py jhmdb --store STORE [--dataset jhmdb12]
    python benchmarks/ablation.py report

Each single run (row, seed) is kept in a cache file, so that the work can be
done in small pieces; `report` writes what is there into docs/learning.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _latent_actions import LatentActions, generate
from _learning_page import write_page
from _probing import knn_accuracy, linear_accuracy
from torch import nn

import aggregate
from pipeline.recipe import ModelSpec

CACHE = Path.home() / ".cache" / "scale-pipeline" / "ablation"
NUM_TRAIN, NUM_TEST = 512, 400
SMALL = {"dim": 48, "num_heads": 3, "head_hidden_dim": 128, "target_hidden_dim": 128, "projection_dim": 64}
GENERATED = {"epochs": 60, "batch_size": 64, "learning_rate": 1.5e-3, "set_size": 6, "model": SMALL}
LIGHT = {"head_hidden_dim": 512, "target_hidden_dim": 512}
"""Narrower projection heads than the released ones: a quarter of the time on two cores."""
JHMDB = {"epochs": 60, "batch_size": 72, "learning_rate": 3e-4, "set_size": 8, "model": LIGHT}


@dataclass(frozen=True)
class Row:
    """One line of a table."""

    table: str
    label: str
    kind: str = "train"
    """train, mean, random (untrained), deepsets (untrained) or deepsets_labels (trained on the labels)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Changes to the base options of TrainSpec, one level deep merged."""
    data: dict[str, Any] = field(default_factory=dict)
    """Changes to LatentActions."""
    num_seeds: int = 5
    """Of the generated data; the other factors take two on real videos."""


def rows_of_tables(*, generated: bool) -> Iterator[Row]:
    """Yield every line: the main comparison, then one factor at a time."""
    main_seeds = 5 if generated else 3
    for label, kind, objective in (
        ("mean of crops", "mean", None),
        ("SCALE, untrained", "random", None),
        ("deep sets, untrained", "deepsets", None),
        ("deep sets, trained on the labels (linear column: itself)", "deepsets_labels", None),
        ("NT-Xent, no mask (SimCLR control)", "train", {"kind": "ntxent"}),
        ("set contrast alone", "train", {"kind": "set"}),
        ("masked crops alone", "train", {"kind": "mcm"}),
        ("SCALE (both)", "train", {}),
    ):
        options = {} if objective is None else {"objective": objective}
        yield Row("main", label, kind, options, num_seeds=main_seeds)
    for ratio in (0.0, 0.15, 0.5, 0.75):
        yield Row("mask ratio", f"{ratio:.2f}", options={"objective": {"mask_ratio": ratio}})
    for frame in ("per_video", "absolute"):
        for parts in ("none", "time", "box", "all"):
            if (frame, parts) != ("per_video", "all") and not (frame == "absolute" and parts == "none"):
                model = {"geometry": parts, "geometry_frame": frame}
                yield Row("geometry", f"{parts}, {frame}", options={"model": model})
    for size in (2, 4):
        yield Row("set size", f"{size}", options={"set_size": size})
    for negatives in ("all", "other_videos"):
        for positives in ("identity", "nearest"):
            if (negatives, positives) != ("all", "identity"):
                objective = {"negatives": negatives, "positives": positives}
                yield Row("negatives and positives", f"{negatives}, {positives}", options={"objective": objective})
    if generated:
        for background in (0.0, 0.3, 1.0):
            for label, kind in (("set", "set"), ("mcm", "mcm"), ("scale", "scale")):
                data, options = {"background": background}, {"objective": {"kind": kind}}
                yield Row("background", f"{background}, {label}", options=options, data=data, num_seeds=3)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return base options with changes, dictionaries merged one level deep."""
    out = dict(base)
    for key, value in changes.items():
        out[key] = {**out.get(key, {}), **value} if isinstance(value, dict) else value
    return out


Videos = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""features (N, V, D), raw geometry (N, V, 9), valid (N, V), labels (N,)."""


def measure(row: Row, seed: int, base: dict[str, Any], fit: Videos, train: Videos, test: Videos) -> dict[str, float]:
    """Learn from the crops `fit` what the row says, then probe `train` against `test`.

    `knn` and `linear` see what was learned alone, `knn_joined` and `linear_joined` see it beside the pooled crops.
    """
    started = time.monotonic()
    labels, truth, input_dim = train[3], test[3], fit[0].shape[2]
    means = [_mean(v) for v in (train, test)]
    if row.kind == "mean":
        learned = means
    elif row.kind.startswith("deepsets"):
        torch.manual_seed(seed)
        network = DeepSets(input_dim)
        if row.kind == "deepsets_labels":
            fit_on_labels(network, fit, seed)
        learned = [network.embed(v) for v in (train, test)]
    else:
        options = merged(base, row.options)
        if row.kind == "random":
            torch.manual_seed(seed)
            model = aggregate.ScaleModel(input_dim, ModelSpec(**options["model"]))
        else:
            model = aggregate.train(*fit[:3], seed=seed, device="cpu", **options).model
        learned = [aggregate.embed(model, *v[:3])[0].numpy() for v in (train, test)]
    figures = {
        "knn": knn_accuracy(learned[0], labels, learned[1], truth),
        "linear": linear_accuracy(learned[0], labels, learned[1], truth),
    }
    if row.kind == "deepsets_labels":
        figures["linear"] = network.accuracy(test)
    pairs = zip(means, learned, strict=True)
    joined = [np.concatenate([_centred(m, means[0]), _centred(v, learned[0])], axis=1) for m, v in pairs]
    figures["knn_joined"] = knn_accuracy(joined[0], labels, joined[1], truth)
    figures["linear_joined"] = linear_accuracy(joined[0], labels, joined[1], truth)
    return {**figures, "seconds": time.monotonic() - started}


def _mean(videos: Videos) -> np.ndarray:
    x, _, valid, _ = videos
    return (x * valid[..., None]).sum(1) / np.maximum(valid.sum(1, keepdims=True), 1)


def _centred(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Subtract the training mean and scale to length one, so that both parts have the same say."""
    moved = values - train.mean(0)
    return moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)


class DeepSets(nn.Module):
    """Per crop an MLP on [feature; geometry], mean over crops, an MLP: about as many parameters as SCALE at work."""

    def __init__(self, dim: int, width: int = 128, num_classes: int = 64) -> None:
        super().__init__()
        self.crop = nn.Sequential(nn.Linear(dim + 7, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.video = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self.classes = nn.Linear(width, num_classes)

    def forward(self, videos: Videos) -> torch.Tensor:
        """Return (N, width)."""
        x, where, valid = (torch.as_tensor(v) for v in videos[:3])
        geometry = aggregate.derive_geometry(where, valid)
        h = self.crop(torch.cat((x.float(), geometry), -1)) * valid[..., None]
        return self.video(h.sum(1) / valid.sum(1, keepdim=True).clamp_min(1))

    @torch.no_grad()
    def embed(self, videos: Videos) -> np.ndarray:
        """Return (N, width) as the probes want it."""
        return self.eval()(videos).numpy()

    @torch.no_grad()
    def accuracy(self, videos: Videos) -> float:
        """Return the share of videos that its own classifier gets right."""
        return float((self.classes(self.eval()(videos)).argmax(1).numpy() == videos[3]).mean())


def fit_on_labels(network: DeepSets, videos: Videos, seed: int) -> None:
    """Train end to end on the training labels, crops dropped at random; no self-supervision."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    x, where, valid, labels = (torch.as_tensor(v) for v in videos)
    for _ in range(60):
        for chosen in torch.randperm(len(x), generator=generator).split(64):
            kept = valid[chosen] & (torch.rand(valid[chosen].shape, generator=generator) < 0.5)
            scores = network.classes(network((x[chosen], where[chosen], kept, labels[chosen])))
            optimiser.zero_grad()
            nn.functional.cross_entropy(scores, labels[chosen]).backward()
            optimiser.step()


def run_rows(name: str, rows: list[Row], base: dict[str, Any], load: Callable[[Row, int], Any], minutes: float) -> None:
    """Run what the cache lacks, until the time is up."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name}.jsonl"
    done = {json.loads(line)["key"] for line in path.read_text().splitlines()} if path.is_file() else set()
    until = time.monotonic() + 60 * minutes
    for seed in range(max(row.num_seeds for row in rows)):  # every row once before any row twice
        for row in (r for r in rows if seed < r.num_seeds):
            key = json.dumps([asdict(row) | {"num_seeds": 0}, seed, base], sort_keys=True)
            if key in done:
                continue
            if time.monotonic() > until:
                print("time is up; run the same command again for the rest")
                return
            figures = measure(row, seed, base, *load(row, seed))
            line = {"key": key, "table": row.table, "label": row.label, "seed": seed, **figures}
            with path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(row.table, "|", row.label, "| seed", seed, {k: round(v, 3) for k, v in figures.items()}, flush=True)


def load_generated(row: Row, seed: int) -> tuple[Videos, ...]:
    """Each seed is a world of its own: motifs, actions, videos and training all differ."""
    config = replace(LatentActions(), **row.data)
    out = []
    for part, num in ((0, NUM_TRAIN), (1, NUM_TEST)):
        x, where, labels = generate(config, num, world=seed, seed=part)
        out.append((x, where, np.ones(x.shape[:2], bool), labels))
    return out[0], out[0], out[1]


def jhmdb_loader(store: str, dataset: str, split: str) -> Callable[[Row, int], tuple[Videos, ...]]:
    """Random crops of training rows to train on, the test grid to probe, as `scale run` does."""
    from pipeline import FeatureStore

    ds = FeatureStore.open(store).dataset(dataset)
    train = ds.select(f"splits['{split}'] = 'train'")
    test = ds.select(f"splits['{split}'] = 'test'")
    names = sorted(set(train.videos["label"].to_pylist()))

    def videos(selection: Any, crops: str) -> Videos:
        block = selection.features(crops, "mobilenet_v2")
        labels = np.array([names.index(x) for x in selection.videos["label"].to_pylist()])
        return np.array(block.values, np.float32), np.array(block.geometry), np.array(block.valid), labels

    fixed = videos(train, "train16"), videos(train, "grid5x3"), videos(test, "grid5x3")
    return lambda row, seed: fixed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("generated", "jhmdb", "report"))
    parser.add_argument("--only", default="", help="tables, separated by commas")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--store", default="store")
    parser.add_argument("--dataset", default="jhmdb12")
    parser.add_argument("--split", default="1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "report":
        write_page(CACHE)
        return
    generated = args.what == "generated"
    wanted = set(filter(None, args.only.split(",")))
    rows = [r for r in rows_of_tables(generated=generated) if not wanted or r.table in wanted]
    if not generated:
        rows = [r if r.table == "main" else replace(r, num_seeds=2) for r in rows]
    if generated:
        run_rows("generated", rows, GENERATED, load_generated, args.minutes)
    else:
        run_rows("jhmdb", rows, JHMDB, jhmdb_loader(args.store, args.dataset, args.split), args.minutes)


if __name__ == "__main__":
    main()
