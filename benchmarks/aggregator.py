"""Whether a learner without labels beats `moments` + tgrad; protocol in docs/learning.md, written before the run.

python -m benchmarks.aggregator choose --store STORE      # cross-validation on training groups, no test row is read
python -m benchmarks.aggregator test --store STORE        # each method once, as chosen
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _aggregator_late import LATE
from _aggregator_videos import Fitted, Videos, joined
from _intervals import accuracy, bootstrapped, difference
from _probing import knn_hits
from _table import RESULTS, commit, write_results
from systems import SPLITS, Side, side_of, write_between_markers
from torch import nn
from torch.nn import functional

from pipeline.readouts.joining import fit_joined
from pipeline.readouts.whitening import group_folds, spectrum
from probe.semi.softmax import fit_softmax, probabilities

CHOICES = RESULTS / "aggregator_chosen.json"
RECORDS = RESULTS / "aggregator_jhmdb12.jsonl"
STRENGTHS = (1e-5, 1e-4, 1e-3)
"""Of the linear probe's penalty; chosen on training groups for every row of the table alike."""
COMPONENTS = 96
ADJUSTED = 0.995
"""Of ten comparisons with moments + tgrad, one is the main one; the others are held to this."""


def base(videos: Videos, rows: np.ndarray) -> Fitted:
    """`moments` + tgrad: what is to be beaten."""
    return joined(videos, [*videos.parts, videos.motion], rows)


def only_mean(videos: Videos, rows: np.ndarray) -> Fitted:
    """Pool the crops."""
    return joined(videos, videos.parts[:1], rows)


def whitened(videos: Videos, rows: np.ndarray, strength: float) -> Fitted:
    """Damp the directions in which training rows vary most."""
    parts = [*videos.parts, videos.motion]
    fitted = fit_joined([p[rows] for p in parts], strength=strength)
    return lambda wanted: fitted([p[wanted] for p in parts])


def within(videos: Videos, rows: np.ndarray, strength: float, power: float) -> Fitted:
    """Frames scaled by how much directions vary *within* training videos: power -1/2 whitens, +1/2 stresses motion."""
    directions, variances, mean_variance = videos.within(rows)
    scale = ((variances / mean_variance + strength) / strength) ** power - 1
    turned = videos.frames + (videos.frames @ directions * scale.astype(np.float32)) @ directions.T
    return joined(videos, [*videos.moments(videos.valid, turned), videos.motion], rows)


def predicted_motion(videos: Videos, rows: np.ndarray, ridge: float) -> Fitted:
    """Join tgrad as the moments of rgb predict it: motion as target, in closed form."""
    source = joined(videos, videos.parts, rows)
    centre = videos.motion[rows].mean(0)
    x, y = source(rows).astype(np.float64), (videos.motion[rows] - centre).astype(np.float64)
    weights = np.linalg.solve(x @ x.T + ridge * len(rows) * np.eye(len(rows)), y)
    every = (source(np.arange(len(videos.motion))) @ (x.T @ weights)).astype(np.float32)
    return joined(videos, [*videos.parts, videos.motion, every], rows)


class Residual(nn.Module):
    """``x + gate * f(x)`` with a gate that starts at 0."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(dim, 128), nn.GELU(), nn.Linear(128, dim))
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return unit vectors."""
        return functional.normalize(x + self.gate * self.body(x), dim=-1)


def residual(videos: Videos, rows: np.ndarray, steps: int, negatives: str) -> Fitted:
    """Learn a gated residual on the base by contrast between odd and even times.

    Negatives are other videos; or with them the same video's frames in reversed and shuffled order (the first cosine
    turned over, or all drawn anew), so that the scene alone tells nothing.
    """
    reversed_ = [videos.parts[0], -videos.parts[1], videos.parts[2], videos.parts[3]]
    parts = [*videos.parts, videos.motion]
    fitted = fit_joined([p[rows] for p in parts])
    _, directions, _, _ = spectrum(fitted([p[rows] for p in parts]))
    directions = directions[:, :COMPONENTS].astype(np.float32)

    def project(found: list[np.ndarray]) -> np.ndarray:
        return (fitted([*found, videos.motion]) @ directions).astype(np.float32)

    whole = project(videos.parts)
    x1, x2, hard1, hard2 = (torch.from_numpy(project(p)[rows]) for p in (*videos.views, videos.scrambled, reversed_))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Residual(directions.shape[1])
        optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        for _ in range(steps):
            a, b = network(x1), network(x2)
            keys = [b] if negatives == "others" else [b, network(hard1), network(hard2)]
            loss = functional.cross_entropy(a @ torch.cat(keys).T / 0.1, torch.arange(len(a)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            learned = network(torch.from_numpy(whole)).numpy()
    return lambda wanted: learned[wanted]


def few_frames(videos: Videos, rows: np.ndarray, ridge: float | None) -> Fitted:
    """Two times of each video instead of all: their mean (None), or distilled: what they say of the whole base."""
    times = videos.num_times
    at = [np.minimum(t, times - 1) for t in (times // 4, (3 * times) // 4)]
    first, second = (videos.pooled(videos.rank == time) for time in at)
    student = joined(videos, [(first + second) / 2], rows)
    if ridge is None:
        return student
    student, teacher = joined(videos, [(first + second) / 2, second - first], rows), base(videos, rows)
    x, y = student(rows).astype(np.float64), teacher(rows).astype(np.float64)
    weights = x.T @ np.linalg.solve(x @ x.T + ridge * len(rows) * np.eye(len(rows)), y)
    return lambda wanted: (student(wanted) @ weights).astype(np.float32)


METHODS: dict[str, tuple[Callable[..., Fitted], list[dict[str, Any]]]] = {
    "mean of crops": (only_mean, [{}]),
    "moments + tgrad": (base, [{}]),
    "whitened": (whitened, [{"strength": s} for s in (3.0, 10.0, 30.0)]),
    "scaled by variation within videos": (
        within, [{"strength": 3.0, "power": p} for p in (-0.5, 0.5)]
    ),
    "tgrad predicted from rgb": (predicted_motion, [{"ridge": r} for r in (1e-3, 1e-2, 1e-1)]),
    "residual, negatives other videos": (
        residual, [{"steps": s, "negatives": "others"} for s in (50, 200)]
    ),
    "residual, negatives share the scene": (
        residual, [{"steps": s, "negatives": "scene"} for s in (50, 200)]
    ),
    "two times of a video: mean": (few_frames, [{"ridge": None}]),
    "two times of a video, distilled": (few_frames, [{"ridge": r} for r in (1e-3, 1e-2, 1e-1)]),
    **LATE,
}  # fmt: skip


def in_own_directions(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return training and other rows in the few directions that training rows span, scaled by one number.

    What the others have beside these directions no penalised linear classifier sees.
    """
    centre = a.mean(0)
    a, b = (np.asarray(x - centre, np.float64) for x in (a, b))
    variances, vectors = np.linalg.eigh(a @ a.T)
    keep = variances > 1e-9 * variances[-1]
    root, vectors = np.sqrt(variances[keep]), vectors[:, keep]
    scale = np.sqrt(variances.sum() / len(a))
    return vectors * root / scale, b @ a.T @ vectors / root / scale


def linear_hits(a: np.ndarray, y: np.ndarray, b: np.ndarray, truth: np.ndarray, l2: float) -> np.ndarray:
    """Classify rows of :func:`in_own_directions`."""
    fitted = fit_softmax(a, np.eye(int(max(y.max(), truth.max())) + 1)[y], l2)
    return np.asarray(probabilities(b, fitted).argmax(1) == truth)


def choose(videos: Videos) -> None:
    """Cross-validate each candidate on the training groups of all splits, method by method; test rows are not read."""
    found: dict[str, Any] = json.loads(CHOICES.read_text()) if CHOICES.is_file() else {}
    for name, (fit, grid) in METHODS.items():
        tried: list[dict[str, Any]] = found.get(name, {"tried": []})["tried"]
        for options in grid:
            if any(one["options"] == options for one in tried):
                continue
            hits: dict[str, list[np.ndarray]] = {}
            for split in SPLITS:
                side = side_of(videos.ds, split, "train")
                folds = group_folds(side.groups)
                for fold in range(int(folds.max()) + 1):
                    inside, outside = folds != fold, folds == fold
                    embed = fit(videos, side.rows[inside], **options)
                    a, b = embed(side.rows[inside]), embed(side.rows[outside])
                    y, truth = side.labels[inside], side.labels[outside]
                    hits.setdefault("knn", []).append(knn_hits(a, y, b, truth))
                    inner, outer = in_own_directions(a, b)
                    for l2 in STRENGTHS:
                        hits.setdefault(f"linear {l2:g}", []).append(linear_hits(inner, y, outer, truth, l2))
            scores = {key: round(float(np.concatenate(h).mean()), 4) for key, h in hits.items()}
            best = max((k for k in scores if k != "knn"), key=scores.__getitem__)
            value = (scores["knn"] + scores[best]) / 2
            tried.append({"options": options, "l2": float(best.split()[1]), "cv": scores, "value": round(value, 4)})
            print(name, tried[-1], flush=True)
        found[name] = {"chosen": max(tried, key=lambda one: one["value"]), "tried": tried}
        CHOICES.write_text(json.dumps(found, indent=1))


def test(videos: Videos, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """Fit each method as chosen on the training side of each split and score its test side, once."""
    records = []
    for split in SPLITS:
        train: Side = side_of(videos.ds, split, "train")
        other: Side = side_of(videos.ds, split, "test")
        for name, (fit, _) in METHODS.items():
            options = chosen[name]["chosen"]
            started = time.process_time()
            embed = fit(videos, train.rows, **options["options"])
            a, b = embed(train.rows), embed(other.rows)
            seconds = round(time.process_time() - started, 2)
            inner, outer = in_own_directions(a, b)
            hits = {
                "knn": knn_hits(a, train.labels, b, other.labels),
                "linear": linear_hits(inner, train.labels, outer, other.labels, options["l2"]),
            }
            records.append(
                {"label": name, "split": split, "groups": other.groups, "options": options["options"],
                 "l2": options["l2"], "processor_s": seconds, "commit": commit(),
                 **{k: round(float(v.mean()), 4) for k, v in hits.items()},
                 "hits": {k: "".join("01"[int(x)] for x in v) for k, v in hits.items()}}
            )  # fmt: skip
    return records


def gain(found: list[dict[str, Any]], base: list[dict[str, Any]], level: float = 0.95) -> str:
    """Return the mean of both probes minus that of other rows in points, paired by video, with its interval."""
    scores: list[np.ndarray] = []
    groups: list[str] = []
    for ours, theirs in zip(found, base, strict=True):
        hits = [[np.array(list(one["hits"][probe]), float) for probe in ("knn", "linear")] for one in (ours, theirs)]
        scores.append(np.mean(hits[0], axis=0) - np.mean(hits[1], axis=0))
        groups += ours["groups"]
    return bootstrapped(np.concatenate(scores), groups, sign=True, level=level)


def report(records: list[dict[str, Any]], chosen: dict[str, Any]) -> None:
    """Write the table."""
    of = {name: [r for r in records if r["label"] == name] for name in METHODS}
    base, mean = of["moments + tgrad"], of["mean of crops"]
    rows: list[dict[str, object]] = []
    for name, found in of.items():
        cv = chosen[name]["chosen"]
        row: dict[str, object] = {"": name, "chosen": json.dumps(cv["options"]).strip("{}") or "-"}
        scores = (cv["cv"]["knn"], cv["cv"][f"linear {cv['l2']:g}"])
        row["cross-validation, kNN / linear"] = " / ".join(f"{100 * score:.1f}" for score in scores)
        for figure in ("knn", "linear"):
            row[figure] = accuracy(found, figure)
            row[f"{figure}, to moments + tgrad"] = difference(found, base, figure)
        row["both, to moments + tgrad"] = gain(found, base)
        row["the same, 99.5 %"] = gain(found, base, ADJUSTED)
        row["both, to the mean"] = gain(found, mean)
        row["processor s"] = round(float(np.mean([r["processor_s"] for r in found])), 2)
        rows.append(row)
    write_between_markers("learning.md", "aggregator_jhmdb12", rows)
    write_results("aggregator_jhmdb12", "Aggregators without labels against moments + tgrad", rows,
                  packages=("torch", "numpy"), notes=(
                      "J-HMDB-12, three splits, 180 test videos, seen once a method; options and penalty chosen by "
                      "five folds of the training groups. Differences in points, paired by video, 95 % over groups.",
                  ))  # fmt: skip


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("choose", "test"))
    parser.add_argument("--store", default="store")
    args = parser.parse_args()
    torch.set_num_threads(1)
    videos = Videos(args.store)
    if args.verb == "choose":
        choose(videos)
        return
    chosen = json.loads(CHOICES.read_text())
    records = test(videos, chosen)
    RECORDS.write_text("".join(json.dumps(record) + "\n" for record in records))
    report(records, chosen)


if __name__ == "__main__":
    main()
