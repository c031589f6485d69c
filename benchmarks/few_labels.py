"""Tables of two sweeps over J-HMDB-12: few labels, and what recognition owes to the background.

    scale sweep benchmarks/recipes/jhmdb12_few_labels.yaml --set seed=0,1,2,3,4 --set split=1,2,3 --stored --all
    scale sweep benchmarks/recipes/jhmdb12_background.yaml --set split=1,2,3 --stored --all
    python -m benchmarks.few_labels --store STORE

Draws of labels are averaged video by video first; a difference is paired by video, its interval is over source groups.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))

import numpy as np
from _table import write_results
from systems import write_between_markers

from pipeline import FeatureStore
from probe.maths.statistics import bootstrap_interval, compare_paired
from probe.pages.compare import Run, load_stored_run, outcomes
from probe.results import ProbeResult

DATASET = "jhmdb12"
LABELS = {0: "1 a class (1, 5 and 10 %)", 2: "2 a class", 5: "5 a class"}
Hits = dict[tuple[str, str], tuple[float, str]]
"""(split, video) -> share of the draws that were right, and the video's group."""


def runs(store: FeatureStore, recipe: str) -> Iterator[Run]:
    """Yield the reports of a sweep's points."""
    for name in store.dataset(DATASET).artifacts("reports"):
        if name.startswith(f"{recipe}-"):
            yield load_stored_run(store, DATASET, name)


def pooled(found: list[tuple[Run, ProbeResult]]) -> Hits:
    """Average the draws of each video."""
    of: dict[tuple[str, str], list[bool]] = {}
    groups: dict[tuple[str, str], str] = {}
    for run, result in found:
        assert run.predictions is not None
        for video, (correct, (_, group)) in outcomes(run.predictions, result.id).items():
            of.setdefault((result.split, video), []).append(correct)
            groups[result.split, video] = group
    return {unit: (float(np.mean(hits)), groups[unit]) for unit, hits in of.items()}


def percent(hits: Hits) -> str:
    """Return the accuracy with its interval."""
    values = np.array([hit for hit, _ in hits.values()])
    low, high = bootstrap_interval(values, [group for _, group in hits.values()])
    return f"{100 * values.mean():.1f} ({100 * low:.1f} to {100 * high:.1f})"


def gain(hits: Hits, base: Hits) -> str:
    """Return the paired difference in points, with its interval."""
    units = sorted(hits)
    found = compare_paired(
        np.array([base[u][0] for u in units]), np.array([hits[u][0] for u in units]), [hits[u][1] for u in units]
    )
    low, high = found.interval
    return f"{100 * found.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def few_labels(store: FeatureStore) -> list[dict[str, object]]:
    """Return a row a readout, number of labels and method."""
    found: dict[tuple[str, int, str], list[tuple[Run, ProbeResult]]] = {}
    for run in runs(store, "jhmdb12-few-labels"):
        for result in run.report.results:
            if result.probe == "semi":
                key = (result.readout, int(result.said("n_per_class") or 0), result.protocol)
                found.setdefault(key, []).append((run, result))
    hits = {key: pooled(results) for key, results in found.items()}
    return [
        {
            "labels": LABELS[number], "readout": readout, "method": method, "runs": len(found[readout, number, method]),
            "top-1 %": percent(own), "to plain": "" if method == "plain" else gain(own, hits[readout, number, "plain"]),
            "to plain on the mean": "" if readout == "mean" else gain(own, hits["mean", number, "plain"]),
        }
        for (readout, number, method), own in sorted(hits.items(), key=lambda item: (item[0][1], item[0][0] != "mean"))
    ]  # fmt: skip


def background(store: FeatureStore) -> list[dict[str, object]]:
    """Return the accuracy of whole videos, of their moving halves, and the drop."""
    found: dict[str, list[tuple[Run, ProbeResult]]] = {}
    for run in runs(store, "jhmdb12-background"):
        for result in run.report.results:
            found.setdefault(result.protocol, []).append((run, result))
    hits = {protocol: pooled(results) for protocol, results in found.items()}
    return [
        {"test videos": "whole", "kNN": percent(hits["whole"]), "to whole": ""},
        {"test videos": "the half that moves, grey elsewhere", "kNN": percent(hits["foreground"]),
         "to whole": gain(hits["foreground"], hits["whole"])},
    ]  # fmt: skip


def motion(store: FeatureStore) -> list[dict[str, object]]:
    """Return how much the crops of each class move."""
    ds = store.dataset(DATASET)
    block = ds.select().features("middle", "moves-tgrad")
    valid = np.asarray(block.valid, bool)
    score = np.where(valid, np.asarray(block.values)[..., 0], 0).sum(1) / np.maximum(valid.sum(1), 1)
    rows = []
    labels = np.array(ds.select().videos["label"].to_pylist())
    for label in sorted(set(labels), key=lambda one: -score[labels == one].mean()):
        own = score[labels == label]
        spread = f"{100 * np.quantile(own, 0.1):.1f} to {100 * np.quantile(own, 0.9):.1f}"
        rows.append({"action": label, "clips": len(own), "mean score x 100": f"{100 * own.mean():.1f}",
                     "10 to 90 % of clips": spread})  # fmt: skip
    return rows


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="store")
    store = FeatureStore.open(parser.parse_args().store)
    tested = "Three splits, 180 test videos of 133 groups; differences in points, paired by video."
    clips = "Mean absolute difference between frames of a crop and those before them; 216 clips, six crops each."
    for name, title, rows, note in (
        ("few_labels_jhmdb12", "Few labels on J-HMDB-12", few_labels(store), tested),
        ("background_jhmdb12", "J-HMDB-12 without its background", background(store), tested),
        ("motion_jhmdb12", "How much the actions of J-HMDB-12 move", motion(store), clips),
    ):
        write_between_markers("learning.md", name, rows)
        write_results(name, title, rows, packages=("torch", "numpy"), notes=(note,))


if __name__ == "__main__":
    main()
