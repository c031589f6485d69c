"""Intervals of the ablation tables: over worlds where every run has one of its own, else over test videos.

A record is one line of benchmarks/results/ablation_*.jsonl.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

MIN_RUNS = 5
"""Fewer give no t-interval worth printing."""
NUM_DRAWS = 4000

Records = Sequence[Mapping[str, Any]]


def accuracy(records: Records, figure: str) -> str:
    """Return mean accuracy in per cent, with its interval."""
    if "split" in records[0]:
        scores, groups = _per_video(records, figure)
        return bootstrapped(scores, groups, sign=False)
    return _over_runs([record[figure] for record in records], sign=False)


def difference(records: Records, others: Records, figure: str) -> str:
    """Return mean accuracy of `records` minus that of `others`, in points, paired by world or by test video."""
    if "split" in records[0]:
        shared = {record["split"] for record in records}
        scores, groups = _per_video(records, figure)
        base, _ = _per_video([record for record in others if record["split"] in shared], figure)
        return bootstrapped(scores - base, groups, sign=True)
    base_of = {record["world"]: record[figure] for record in others}
    return _over_runs([r[figure] - base_of[r["world"]] for r in records if r["world"] in base_of], sign=True)


def _over_runs(values: Sequence[float], *, sign: bool) -> str:
    """Mean and 95 % t-interval over runs; with fewer than five the range instead."""
    x = 100 * np.asarray(values)
    mean = f"{x.mean():+.1f}" if sign else f"{x.mean():.1f}"
    if len(x) == 1:
        return mean
    if len(x) < MIN_RUNS:
        return f"{mean} ({x.min():.1f} to {x.max():.1f})"
    return f"{mean} ± {stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)):.1f}"


def _per_video(records: Records, figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each test video's share of trainings that got it right, split after split, and its source group."""
    by_split: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for record in records:
        by_split[record["split"]].append(record)
    scores, groups = [], []
    for split in sorted(by_split):
        hits = [[int(c) for c in record["hits"][figure]] for record in by_split[split]]
        scores.append(np.mean(hits, axis=0))
        groups.append(by_split[split][0]["groups"])
    return np.concatenate(scores), np.concatenate(groups)


def bootstrapped(scores: np.ndarray, groups: Sequence[str] | np.ndarray, *, sign: bool, level: float = 0.95) -> str:
    """Return mean and bootstrap interval over source groups: clips of one source rise and fall together."""
    _, of = np.unique(groups, return_inverse=True)
    totals, counts = np.bincount(of, scores), np.bincount(of)
    draws = np.random.default_rng(0).multinomial(len(totals), np.full(len(totals), 1 / len(totals)), size=NUM_DRAWS)
    low, high = np.quantile((draws @ totals) / (draws @ counts), ((1 - level) / 2, (1 + level) / 2))
    form = "+.1f" if sign else ".1f"
    return f"{100 * scores.mean():{form}} ({100 * low:{form}} to {100 * high:{form}})"
