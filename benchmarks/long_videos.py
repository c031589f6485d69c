"""Every system on made-up videos of 20 to 40 s in which order and place decide, on two strengths of background.

    python -m benchmarks.long_videos --minutes 18      # again for what is left
    python -m benchmarks.long_videos --report

Eight actions show the same eight motifs, two at each of four times, one on either side; 32 crops a video, a quarter of
them distractors. There are two orders of time, and four actions of each, which differ in who stands on which side: the
mean of the crops knows nothing of the action, and cosines over time at best the order, which is worth 25 %. A run is
a world of its own; every system sees the same worlds. ConCur and STOR must not be shown when and where crops are.

`tau` is CARL's: Kendall's tau of the nearest crops in another video of the same action, of the crops' features in the
rows that train nothing, else of the network's tokens, which know of their time. Speed is not asked for: a made-up crop
shows one motif, whatever its speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _intervals import accuracy, difference
from _latent_actions import LatentActions, generate
from _probing import knn_hits
from _table import RESULTS, commit, write_results
from systems import SYSTEMS, write_between_markers

import aggregate
from aggregate import ScaleModel
from aggregate.data.geometry import derive_geometry
from pipeline.readouts.joining import fit_joined
from pipeline.readouts.moments import moments
from probe.maths.crops_in_time import agreement_in_order, course
from probe.semi.softmax import fit_softmax, probabilities

RECORDS = RESULTS / "long_videos.jsonl"
BACKGROUNDS = (0.05, 0.3)
OTHERS_A_VIDEO = 4
"""Videos of the same action that each test video is lined up with."""
NUM_TRAIN, NUM_TEST, WORLDS = 256, 240, 5
TRAINING: dict[str, Any] = {
    "epochs": 60, "batch_size": 64, "set_size": 12, "learning_rate": 1.5e-3, "device": "cpu",
    "model": {"dim": 48, "num_heads": 4, "head_hidden_dim": 128, "target_hidden_dim": 128, "projection_dim": 64},
}  # fmt: skip
WITHOUT = ("mean", "moments")
ONE_STREAM = {
    name: options for name, options in SYSTEMS.items()
    if options["objective"]["kind"] not in ("coclr", "maclr", "mscl", "iboot")
    and options["objective"].get("stage") != "cross" and not options["objective"].get("across")
    and "normalise" not in options
} | {"SCALE, 180 epochs": {"objective": {"kind": "scale"}, "epochs": 180}}  # fmt: skip


Side = tuple[np.ndarray, ...]
"""Features, geometry and labels."""


def vectors(label: str, train: Side, test: Side, world: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return what a row makes of training and test videos, and of the test videos' crops."""
    sides = (train, test)
    if label in WITHOUT:
        names = ("mean",) if label == "mean" else ("mean", "cos1", "cos2", "std")
        found = [moments(x, np.ones(x.shape[:2], bool), where) for x, where, _ in sides]
        parts = [[one[name] for name in names] for one in found]
        fitted = fit_joined(parts[0])
        return [fitted(one) for one in parts], test[0]
    own = ONE_STREAM[label]
    model = {**TRAINING["model"], "geometry": own.get("model", {}).get("geometry", "all")}
    options = {**TRAINING, **own, "model": model}
    result = aggregate.train(train[0], train[1], seed=world, **options)
    found = [aggregate.embed(result.model, x, where)[0].numpy() for x, where, _ in sides]
    return found, tokens(result.model, test)


@torch.no_grad()
def tokens(model: ScaleModel, side: Side) -> np.ndarray:
    """Return what a network makes of every crop, seen together with all others of its video."""
    x, raw = (torch.from_numpy(a) for a in side[:2])
    everything = torch.ones(x.shape[:2], dtype=torch.bool)
    return model.eval()(x, derive_geometry(raw, everything, frame=model.spec.geometry_frame))[1].numpy()


def tau(crops: np.ndarray, side: Side) -> float:
    """Line every video up with others of its action."""
    centre, rng, found = crops.mean((0, 1), dtype=np.float64), np.random.default_rng(0), []
    everything = np.ones(crops.shape[1], bool)
    courses = [course(own, everything, where, centre)[0] for own, where in zip(crops, side[1], strict=True)]
    for n, own in enumerate(courses):
        same = np.flatnonzero(side[2] == side[2][n])
        others = rng.permutation(same[same != n])[:OTHERS_A_VIDEO]
        found += [agreement_in_order(own, courses[other]) for other in others]
    return 2 * float(np.mean(found)) - 1


def linear_hits(a: np.ndarray, y: np.ndarray, b: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Softmax regression on vectors scaled by one number."""
    centre = a.mean(0)
    scale = np.sqrt(((a - centre) ** 2).sum(1).mean())
    fitted = fit_softmax((a - centre) / scale, np.eye(int(y.max()) + 1)[y], 1e-3)
    return np.asarray(probabilities((b - centre) / scale, fitted).argmax(1) == truth)


def run(minutes: float) -> None:
    """Run what the record lacks, every row on one world before any on two, the weak background first."""
    lines = RECORDS.read_text().splitlines() if RECORDS.is_file() else []
    done = {(r["label"], r["background"], r["world"]) for r in map(json.loads, lines)}
    until = time.monotonic() + 60 * minutes
    for background in BACKGROUNDS:
        for world in range(WORLDS):
            config = LatentActions(
                num_actions=8, num_times=4, num_crops=32, background=background, seconds=(20.0, 40.0), orders=2,
                crop_share=0.05,
            )  # fmt: skip
            train, test = (generate(config, n, world=world, seed=i) for i, n in enumerate((NUM_TRAIN, NUM_TEST)))
            for label in (*WITHOUT, *ONE_STREAM):
                if (label, background, world) in done or time.monotonic() > until:
                    continue
                started = time.process_time()
                (a, b), crops = vectors(label, train, test, world)
                record = {
                    "label": label, "background": background, "world": world,
                    "knn": round(float(knn_hits(a, train[2], b, test[2]).mean()), 4),
                    "linear": round(float(linear_hits(a, train[2], b, test[2]).mean()), 4),
                    "tau": round(tau(crops, test), 3),
                    "processor_s": round(time.process_time() - started, 1), "commit": commit(),
                }  # fmt: skip
                with RECORDS.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(record, flush=True)


def report() -> None:
    """Write the table from the records."""
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    rows: list[dict[str, object]] = []
    for label in (*WITHOUT, *ONE_STREAM):
        row: dict[str, object] = {"": label}
        for background in BACKGROUNDS:
            of = {
                name: [r for r in records if r["label"] == name and r["background"] == background]
                for name in (label, "moments")
            }
            found = of[label]
            if not found:
                continue
            row |= {
                f"background {background}: worlds": len(found),
                f"background {background}: kNN": accuracy(found, "knn"),
                f"background {background}: linear": accuracy(found, "linear"),
                f"background {background}: linear, to moments": difference(found, of["moments"], "linear"),
                f"background {background}: tau": f"{np.mean([r['tau'] for r in found]):+.2f}",
            }
        seconds = [r["processor_s"] for r in records if r["label"] == label]
        if seconds:
            rows.append(row | {"processor s": round(float(np.mean(seconds)), 1)})
    columns = list(dict.fromkeys(key for row in rows for key in row))
    rows = [{key: row.get(key, "") for key in columns} for row in rows]
    write_between_markers("systems.md", "long_videos", rows)
    write_results("long_videos", "Systems on generated videos of 20 to 40 s", rows, packages=("torch", "numpy"), notes=(
        f"{NUM_TRAIN} training and {NUM_TEST} test videos of 32 crops, eight actions (chance 12.5 %, the order alone "
        "25 %), 240 steps, or three times as many. Mean and 95 % t-interval over worlds (the range with fewer than "
        "five), differences paired by world.",
    ))  # fmt: skip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=18.0)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not args.report:
        run(args.minutes)
    report()


if __name__ == "__main__":
    main()
