"""Every system on made-up videos of 20 to 40 s in which order and place decide, on two strengths of background.

    python -m benchmarks.long_videos --minutes 18      # again for what is left
    python -m benchmarks.long_videos --report

Eight actions show the same eight motifs, two at each of four times, one on either side; 32 crops a video of three
speeds (1, 2 and 4), a quarter of what they see is distractors. There are two orders of time, and four actions of each,
which differ in who stands on which side: the mean of the crops knows nothing of the action, and cosines over time at
best the order, which is worth 25 %. Every video has a background of its own, weak or strong. A run is a world of its
own; every system sees the same worlds. ConCur and STOR must not be shown when and where crops are, playback speed not
when. How videos move and what crops see of it: `_moving_videos`. Its strengths were set on world 10, by what the crops'
own features answer, before any system was trained on a world that counts.

`tau` is CARL's: Kendall's tau of the nearest crops in another video of the same action, of the crops' features in the
rows that train nothing, else of the network's tokens, which know of their time. `speed` and `overlap` are asked of what
a row makes of a crop alone (`_crop_questions`), and learned from 240 further videos, which trained nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _crop_questions import QUESTIONS, alone, answered
from _intervals import accuracy, difference
from _latent_actions import LatentActions
from _moving_videos import Moving, generate_moving
from _probing import knn_hits
from _table import RESULTS, commit, write_results
from systems import BLIND, SYSTEMS, write_between_markers

import aggregate
from aggregate import ScaleModel
from aggregate.data.geometry import derive_geometry
from pipeline.readouts.joining import fit_joined
from pipeline.readouts.moments import moments
from pipeline.recipe import ModelSpec
from probe.maths.crops_in_time import agreement_in_order, course
from probe.semi.softmax import fit_softmax, probabilities

RECORDS = RESULTS / "long_videos.jsonl"
BACKGROUNDS = (0.05, 0.3)
OTHERS_A_VIDEO = 4
"""Videos of the same action that each test video is lined up with."""
NUM_TRAIN, NUM_TEST, WORLDS = 256, 240, 5
MOVING = Moving()
TRAINING: dict[str, Any] = {
    "epochs": 60, "batch_size": 64, "set_size": 12, "learning_rate": 1.5e-3, "device": "cpu",
    "model": {"dim": 48, "num_heads": 4, "head_hidden_dim": 128, "target_hidden_dim": 128, "projection_dim": 64},
}  # fmt: skip
WITHOUT = {"mean": ("mean",), "mean + cosines": ("mean", "cos1", "cos2"), "moments": ("mean", "cos1", "cos2", "std")}
UNTRAINED = "SCALE, untrained"
ONE_STREAM = {
    name: options for name, options in SYSTEMS.items()
    if options["objective"]["kind"] not in ("coclr", "maclr", "mscl", "iboot")
    and options["objective"].get("stage") != "cross" and not options["objective"].get("across")
    and "normalise" not in options
} | {
    "playback speed": {"objective": {"kind": "speed", "speeds": MOVING.strides}, **BLIND},
    "SCALE, 180 epochs": {**SYSTEMS["SCALE"], "epochs": 180},
    "order contrast, 180 epochs": {**SYSTEMS["order contrast"], "epochs": 180},
}  # fmt: skip
ROWS = (*WITHOUT, UNTRAINED, *ONE_STREAM)
Side = tuple[np.ndarray, ...]
"""Features, geometry and labels."""


@dataclass(frozen=True)
class World:
    """Videos to train on, to test on, and others to learn questions to crops from."""

    train: Side
    test: Side
    further: Side

    @classmethod
    def drawn(cls, background: float, world: int) -> World:
        """Draw all videos of a world."""
        config = LatentActions(
            num_actions=8, num_times=4, num_crops=32, background=background, seconds=(20.0, 40.0), orders=2
        )
        numbers = (NUM_TRAIN, NUM_TEST, NUM_TEST)
        return cls(*(generate_moving(config, MOVING, n, world=world, seed=i) for i, n in enumerate(numbers)))


@dataclass(frozen=True)
class Made:
    """What a row makes of a world."""

    train: np.ndarray
    test: np.ndarray
    in_context: np.ndarray
    """Of the test videos' crops, each seen with all others of its video."""
    alone: tuple[np.ndarray, np.ndarray]
    """Of the further and the test videos' crops, each seen alone."""


def made_of(label: str, world: World, seed: int) -> Made:
    """Train, and read all videos and crops."""
    train, test, asked = world.train, world.test, (world.further, world.test)
    if label in WITHOUT:
        found = [moments(x, np.ones(x.shape[:2], bool), where) for x, where, _ in (train, test)]
        parts = [[one[name] for name in WITHOUT[label]] for one in found]
        fitted = fit_joined(parts[0])
        return Made(fitted(parts[0]), fitted(parts[1]), test[0], (asked[0][0], asked[1][0]))
    model = untrained(train, seed) if label == UNTRAINED else trained(ONE_STREAM[label], train, seed)
    ours, theirs = (aggregate.embed(model, x, where)[0].numpy() for x, where, _ in (train, test))
    further, tested = (alone(model, *side[:2]) for side in asked)
    return Made(ours, theirs, tokens(model, test), (further, tested))


def trained(own: dict[str, Any], train: Side, seed: int) -> ScaleModel:
    """Train a system."""
    model = {**TRAINING["model"], "geometry": own.get("model", {}).get("geometry", "all")}
    return aggregate.train(train[0], train[1], seed=seed, **{**TRAINING, **own, "model": model}).model


def untrained(train: Side, seed: int) -> ScaleModel:
    """Return a network as every training finds it: random, inputs standardised."""
    torch.manual_seed(seed)
    model = ScaleModel(train[0].shape[-1], ModelSpec(**TRAINING["model"]))
    crops = torch.from_numpy(train[0]).flatten(0, 1)
    model.standardise_by(crops.mean(0), crops.std(0))
    return model.eval()


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


def measured(label: str, background: float, world: int, videos: World) -> dict[str, Any]:
    """Run one row on one world."""
    started = time.process_time()
    made = made_of(label, videos, world)
    seconds = time.process_time() - started
    ours, theirs = videos.train[2], videos.test[2]
    geometry = (videos.further[1], videos.test[1])
    return {
        "label": label, "background": background, "world": world,
        "knn": round(float(knn_hits(made.train, ours, made.test, theirs).mean()), 4),
        "linear": round(float(linear_hits(made.train, ours, made.test, theirs).mean()), 4),
        "tau": round(tau(made.in_context, videos.test), 3),
        **{question: round(answered(question, made.alone, geometry), 4) for question in QUESTIONS},
        "processor_s": round(seconds, 1), "commit": commit(),
    }  # fmt: skip


def run(minutes: float) -> None:
    """Run what the record lacks, every row on one world before any on two, the weak background first."""
    done = {(r["label"], r["background"], r["world"]) for r in read_records()}
    until = time.monotonic() + 60 * minutes
    for background, world in itertools.product(BACKGROUNDS, range(WORLDS)):
        todo = [label for label in ROWS if (label, background, world) not in done]
        videos = World.drawn(background, world) if todo and time.monotonic() < until else None
        for label in todo:
            if videos is None or time.monotonic() > until:
                return
            record = measured(label, background, world, videos)
            with RECORDS.open("a") as file:
                file.write(json.dumps(record) + "\n")
            print(record, flush=True)


def read_records() -> list[dict[str, Any]]:
    """Return what has been measured."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.is_file() else []


def report() -> None:
    """Write a table a background from the records."""
    records = read_records()
    every: list[dict[str, object]] = []
    for name, background in (("long_videos", BACKGROUNDS[0]), ("long_videos_strong", BACKGROUNDS[1])):
        here = [r for r in records if r["background"] == background]
        of = {label: [r for r in here if r["label"] == label] for label in ROWS}
        rows: list[dict[str, object]] = [
            {
                "": label, "worlds": len(found), "kNN": accuracy(found, "knn"), "linear": accuracy(found, "linear"),
                "linear, to moments": difference(found, of["moments"], "linear"),
                "tau": f"{np.mean([r['tau'] for r in found]):+.2f}",
                **{question: accuracy(found, question) for question in QUESTIONS},
                "processor s": round(float(np.mean([r["processor_s"] for r in found])), 1),
            }
            for label, found in of.items() if found
        ]  # fmt: skip
        if rows:
            write_between_markers("systems-measured.md", name, rows)
            every += [{"": row[""], "background": background} | row for row in rows]
    title = "Systems on generated videos of 20 to 40 s"
    write_results("long_videos", title, every, packages=("torch", "numpy"), notes=(
        f"{NUM_TRAIN} training and {NUM_TEST} test videos of 32 crops, eight actions (chance 12.5 %, the order alone "
        "25 %), 240 steps, or three times as many. speed: one of three, chance 33.3 %. overlap: none or one of four "
        "shares, chance 20 %. Mean and 95 % t-interval over worlds (the range with fewer than five), differences "
        "paired by world.",
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
