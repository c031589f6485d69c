"""Every system of the field, and readouts without training, on one store of real clips: J-HMDB's twelve classes.

    scale run flows/recipes/jhmdb12_frames.yaml --data DATA/jhmdb12 --store STORE
    python -m benchmarks.systems --store STORE --minutes 30      # again for what is left
    python -m benchmarks.systems --report

One configuration for all trained systems, fixed before any of them saw a test video; nothing is chosen on test videos.
Three official splits, one seed each. Each run is a line of benchmarks/results/systems_jhmdb12.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _intervals import accuracy, difference
from _probing import knn_hits, linear_hits
from _table import RESULTS, commit, write_results

import aggregate
from aggregate.data.rows import frame_sizes, group_ids
from pipeline import FeatureStore
from pipeline.readouts.fitting import fit_readout, read_parts
from pipeline.readouts.joining import fit_joined
from pipeline.recipe import ReadoutSpec

SPLITS = ("1", "2", "3")
RECORDS = RESULTS / "systems_jhmdb12.jsonl"
RGB, TGRAD, MOTION = ("frames", "mobilenet_v2"), ("frames", "mobilenet_v2-tgrad"), ("centre", "mobilenet_motion-tgrad")
TRAINING: dict[str, Any] = {
    "epochs": 60, "batch_size": 72, "set_size": 8, "learning_rate": 1e-3, "device": "cpu",
    "model": {"dim": 128, "num_heads": 4, "head_hidden_dim": 512, "target_hidden_dim": 256, "geometry": "all"},
}  # fmt: skip
BLIND = {"model": {**TRAINING["model"], "geometry": "none"}}
SYSTEMS: dict[str, dict[str, Any]] = {
    "SCALE": {"objective": {"kind": "scale"}},
    "SCALE, inputs as they are": {"objective": {"kind": "scale"}, "normalise": "none"},
    "SimCLR (NT-Xent)": {"objective": {"kind": "ntxent"}},
    "VICReg": {"objective": {"kind": "vicreg"}},
    "Barlow Twins": {"objective": {"kind": "barlow_twins"}},
    "CARL": {"objective": {"kind": "carl"}},
    "ViCC, single": {"objective": {"kind": "vicc", "prototypes": 60}},
    "ViCC, cross": {"objective": {"kind": "vicc", "stage": "cross", "prototypes": 60}},
    "CoCLR": {"objective": {"kind": "coclr"}},
    "CoCLR, mined in all videos": {"objective": {"kind": "coclr", "mine": "store"}},
    "MaCLR": {"objective": {"kind": "maclr"}},
    "MSCL": {"objective": {"kind": "mscl"}},
    "iBoot (target: tgrad)": {"objective": {"kind": "iboot"}},
    "CVRL, a = 2": {"objective": {"kind": "cvrl", "exponent": 2.0}},
    "ConCur": {"objective": {"kind": "concur"}, **BLIND},
    "STOR": {"objective": {"kind": "stor"}, **BLIND},
    "TeG": {"objective": {"kind": "teg"}},
    "SVT": {"objective": {"kind": "svt"}},
    "ConST-CL (local weight 1)": {"objective": {"kind": "const_cl", "local_weight": 1.0}},
    "STC-Mix": {"objective": {"kind": "stc_mix"}},
    "STC-Mix, across streams": {"objective": {"kind": "stc_mix", "across": True}},
    "order contrast": {"objective": {"kind": "order_contrast"}},
    "order contrast, own orders": {"objective": {"kind": "order_contrast", "negatives": "own"}},
    "SCALE + order contrast": {
        "objective": {"kind": "sum", "parts": [{"kind": "scale"}, {"kind": "order_contrast"}], "weights": [1, 1]}
    },
}


def part(pair: tuple[str, str], *take: str) -> dict[str, Any]:
    return {"crops": pair[0], "backbone": pair[1], "take": take}


ALL = ("mean", "cosines", "std")
WITHOUT: dict[str, dict[str, Any]] = {
    "mean": {"of": [part(RGB, "mean")]},
    "sqrt of the mean": {"of": [part(RGB, "sqrt")]},
    "std": {"of": [part(RGB, "std")]},
    "mean + cosines": {"of": [part(RGB, "mean", "cosines")]},
    "moments": {"of": [part(RGB, *ALL)]},
    "tgrad, as stored": {"of": [part(TGRAD, "mean")]},
    "tgrad, 4 times as strong": {"of": [part(MOTION, "mean")]},
    "mean + tgrad": {"of": [part(RGB, "mean"), part(MOTION, "mean")]},
    "moments + tgrad as stored": {"of": [part(RGB, *ALL), part(TGRAD, "mean")]},
    "moments + tgrad": {"of": [part(RGB, *ALL), part(MOTION, "mean")]},
    "moments, whitened": {"of": [part(RGB, *ALL)], "project": "whitened"},
    "moments + tgrad, whitened": {"of": [part(RGB, *ALL), part(MOTION, "mean")], "project": "whitened"},
    "moments + tgrad, VICReg in closed form": {
        "of": [part(RGB, *ALL), part(MOTION, "mean")], "project": "vicreg", "strength": 3, "outputs": 256
    },
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """One side of a split."""

    rows: np.ndarray
    labels: np.ndarray
    groups: list[str]
    group_numbers: np.ndarray


def side_of(ds: Any, split: str, name: str) -> Side:
    chosen = ds.select(f"splits['{split}'] = '{name}'")
    classes = sorted(set(ds.videos["label"].to_pylist()))
    labels = np.array([classes.index(x) for x in chosen.videos["label"].to_pylist()])
    return Side(chosen.rows, labels, chosen.videos["group"].to_pylist(), group_ids(ds.videos)[chosen.rows])


def untrained(ds: Any, spec: ReadoutSpec, train: Side, test: Side) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Fit a readout on the training side, labels of that side choosing a shrinkage where one is to be chosen."""
    ours, theirs = read_parts(ds, spec, train.rows)[0], read_parts(ds, spec, test.rows)[0]
    views = None
    if spec.project == "vicreg":
        views = (read_parts(ds, spec, train.rows, half=0)[0], read_parts(ds, spec, train.rows, half=1)[0])
    labels = [(str(x),) for x in train.labels]
    fitted = fit_readout(ours, spec, labels=labels, groups=train.groups, views=views)
    return fitted(ours), fitted(theirs), fitted.strength


def trained(ds: Any, options: dict[str, Any], train: Side, test: Side, seed: int) -> tuple[np.ndarray, ...]:
    """Train a system on the training side's crops and return the set tokens of both sides."""
    selection = ds.select(rows=train.rows)
    rgb, tgrad = (selection.features(*pair) for pair in (RGB, TGRAD))
    valid = rgb.valid & tgrad.valid
    result = aggregate.train(
        np.array(rgb.values), np.array(rgb.geometry), valid, group_ids=train.group_numbers, seed=seed,
        more_features=[np.array(tgrad.values)], **{**TRAINING, **options},
    )  # fmt: skip
    out = []
    for side in (train, test):
        block = ds.select(rows=side.rows).features(*RGB)
        sizes = frame_sizes(ds.select(rows=side.rows).videos)
        arrays = (np.array(block.values), np.array(block.geometry), np.array(block.valid))
        out.append(aggregate.embed(result.model, *arrays, frame_size_px=sizes)[0].numpy())
    return (*out, np.array([result.history[-1]["loss"], -1.0 if result.chance is None else result.chance]))


def records(store: str, minutes: float, only: set[str]) -> Iterator[dict[str, Any]]:
    """Measure what the file lacks, every row on one split before any row on two."""
    done = {(r["label"], r["split"]) for r in read_records()}
    ds = FeatureStore.open(store).dataset("jhmdb12")
    until = time.monotonic() + 60 * minutes
    for split in SPLITS:
        train, test = side_of(ds, split, "train"), side_of(ds, split, "test")
        base = untrained(ds, ReadoutSpec.model_validate(WITHOUT["moments + tgrad"]), train, test)
        for label in (*WITHOUT, *SYSTEMS):
            if (label, split) in done or time.monotonic() > until or (only and label not in only):
                continue
            started = time.process_time()
            more: dict[str, Any] = {}
            if label in WITHOUT:
                spec = ReadoutSpec.model_validate(WITHOUT[label])
                ours, theirs, strength = untrained(ds, spec, train, test)
                more = {"strength": strength}
                columns = {"": (ours, theirs)}
            else:
                ours, theirs, last = trained(ds, SYSTEMS[label], train, test, int(split))
                # One more part beside the five of moments + tgrad, with the same say.
                own = fit_joined([ours])
                both = [
                    np.concatenate([5**0.5 * b, own([x])], axis=1) for b, x in zip(base, (ours, theirs), strict=False)
                ]
                columns = {"": (ours, theirs), "_joined": tuple(both)}
                more = {"loss": float(last[0]), "chance": float(last[1])}
            made = round(time.process_time() - started, 2)
            hits = {}
            for name, (a, b) in columns.items():
                hits[f"knn{name}"] = knn_hits(a, train.labels, b, test.labels)
                hits[f"linear{name}"] = linear_hits(a, train.labels, b, test.labels)
            yield {
                "label": label, "trained": label in SYSTEMS, "split": split, "groups": test.groups,
                **{k: round(float(v.mean()), 4) for k, v in hits.items()}, "processor_s": made, **more,
                "hits": {k: "".join("01"[int(x)] for x in v) for k, v in hits.items()},
                "date": datetime.now(UTC).date().isoformat(), "commit": commit(),
            }  # fmt: skip


def read_records() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.is_file() else []


def report() -> None:
    """Write the tables from the records."""
    by_label: dict[str, list[dict[str, Any]]] = {}
    for record in read_records():
        by_label.setdefault(record["label"], []).append(record)
    base, strong = by_label["mean"], by_label["moments + tgrad"]
    for name, is_trained in (("readouts_jhmdb12", False), ("systems_jhmdb12", True)):
        rows = []
        for label in (*WITHOUT, *SYSTEMS):
            found = by_label.get(label, [])
            if not found:
                continue
            if found[0]["trained"] != is_trained:
                continue
            row: dict[str, object] = {"": label, "splits": len(found)}
            for figure in ("knn", "linear"):
                row |= {figure: accuracy(found, figure), f"{figure}, to the mean": difference(found, base, figure)}
                if is_trained:
                    other = [{**r, "hits": {f"{figure}_joined": r["hits"][figure]}} for r in strong]
                    joined = difference(found, other, f"{figure}_joined")
                    row[f"{figure}, beside moments + tgrad, to them"] = joined
            if is_trained:
                row["loss / chance"] = ", ".join(
                    f"{r['loss']:.2f} / {r['chance']:.2f}" if r["chance"] >= 0 else f"{r['loss']:.2f}" for r in found
                )
            row["processor s"] = round(float(np.mean([r["processor_s"] for r in found])), 1)
            rows.append(row)
        if rows:
            write_between_markers("systems-measured.md" if is_trained else "readouts.md", name, rows)
            title = "Systems trained on J-HMDB-12" if is_trained else "Readouts without training on J-HMDB-12"
            write_results(name, title, rows, packages=("torch", "numpy", "scikit-learn"), notes=(
                "Accuracy in per cent over the test videos of three splits (180), 95 % bootstrap over source groups; "
                "differences in points, paired by video. kNN: k = 20, T = 0.07. Nothing is chosen on test videos.",
            ))  # fmt: skip


def write_between_markers(page_name: str, name: str, rows: list[dict[str, object]]) -> None:
    """Replace what stands between the markers of a page of docs/."""
    page = RESULTS.parent.parent / "docs" / page_name
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(v) for v in row.values()] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--only", default="", help="labels, separated by semicolons")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        for record in records(args.store, args.minutes, set(filter(None, args.only.split(";")))):
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")
            shown = {k: v for k, v in record.items() if k not in ("hits", "groups", "date", "commit")}
            print(shown, flush=True)
    report()


if __name__ == "__main__":
    main()
