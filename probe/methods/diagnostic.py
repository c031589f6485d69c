"""Diagnostics: trained questions to pairs of crops (order, overlap, speed), and how videos of a class line up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import NoDataError
from pipeline.recipe.probes.diagnostic import DiagnosticProbe
from probe.data.features import FeatureTable
from probe.found import TrainingFound
from probe.maths import crops_in_time as crops
from probe.maths.statistics import bootstrap_interval
from probe.methods.measure import result_id
from probe.methods.registry import Probing, measure_probe
from probe.results import ProbeResult
from probe.trained.inputs import Input
from probe.trained.training import GridSpec, train_grid

MIN_TIMES = 3
PRECISIONS = (5, 10)


@measure_probe.register(DiagnosticProbe)
def measure_diagnostic(spec: DiagnosticProbe, probing: Probing) -> None:
    """Ask one question and add its result."""
    table = probing.data.table
    assert table is not None
    assert table.values is not None
    if spec.kind in ("tau", "phase"):
        _line_up(spec, probing, table)
    else:
        _train(spec, probing, table)


def _train(spec: DiagnosticProbe, probing: Probing, table: FeatureTable) -> None:
    used = probing.data.used
    sides = [
        crops.balanced(_examples(spec, table, rows, seed=spec.seed + side), spec.seed)
        for side, rows in enumerate((used.train, used.test))
    ]
    train, test = sides
    answers = np.union1d(train.answer, test.answer)
    if len(np.unique(train.answer)) < 2 or not len(test.answer):
        needs = "crops of several strides (policy `speeds`)" if spec.kind == "speed" else "videos with several crops"
        raise NoDataError(
            f"expected {needs} for the probe {spec.kind} of {table.crops}/{table.feature_set}, found "
            f"{len(train.answer)} train and {len(test.answer)} test examples with {len(answers)} answers"
        )
    targets = train.answer[:, None] == answers[None]
    groups = [probing.setting.train_groups[v] for v in train.video]
    grid = GridSpec(seeds=(spec.seed,), epochs=30)
    fitted = train_grid(grid, Input.of(train.vectors), targets, groups, Input.of(test.vectors), device=probing.device)
    hit = answers[fitted[0].selected_scores_QC.argmax(1)] == test.answer
    figures = {"chance": 1 / len(answers), "examples": float(len(hit))}
    _keep(spec, probing, hit.astype(np.float64), test.video, figures, chosen_on=fitted[0].chosen_on)


def _examples(spec: DiagnosticProbe, table: FeatureTable, rows: np.ndarray, *, seed: int) -> crops.Examples:
    assert table.values is not None
    arrays = (table.values[rows], table.valid[rows], table.geometry[rows])
    if spec.kind == "order":
        return crops.order_examples(*arrays, spec.pairs, seed)
    if spec.kind == "overlap":
        return crops.overlap_examples(*arrays, spec.pairs, seed, spec.bins)
    return crops.speed_examples(*arrays)


def _line_up(spec: DiagnosticProbe, probing: Probing, table: FeatureTable) -> None:
    """Compare each test video with train videos of its class."""
    setting, used = probing.setting, probing.data.used
    assert table.values is not None
    seen = table.values[used.train][table.valid[used.train]]
    centre = seen.mean(0, dtype=np.float64)
    courses = {
        int(p): crops.course(table.values[p], table.valid[p], table.geometry[p], centre)
        for p in (*used.train, *used.test)
    }
    rng = np.random.default_rng(spec.seed)
    values, video, more = [], [], []
    for q, position in enumerate(used.test):
        own, own_times = courses[int(position)]
        same_class = (setting.train_truth & setting.test_truth[q]).any(1)
        partners = [courses[int(used.train[n])] for n in rng.permutation(np.flatnonzero(same_class))[: spec.pairs]]
        partners = [found for found in partners if len(found[0]) >= MIN_TIMES]
        if len(own) < MIN_TIMES or not partners:
            continue
        video.append(q)
        if spec.kind == "tau":
            values.append(float(np.mean([crops.agreement_in_order(own, theirs) for theirs, _ in partners])))
            continue
        right = _same_phase(own, own_times, partners, spec.bins)
        values.append(float(right[:, 0].mean()))
        more.append([float(right[:, :k].mean()) for k in PRECISIONS])
    if not values:
        raise NoDataError(
            f"expected videos of one class with {MIN_TIMES} times each for the probe {spec.kind} of "
            f"{table.crops}/{table.feature_set}, found none"
        )
    figures = {"chance": 0.5 if spec.kind == "tau" else 1 / spec.bins}
    if spec.kind == "tau":
        figures["tau"] = 2 * float(np.mean(values)) - 1
    else:
        figures |= {f"precision_{k}": float(np.mean([m[i] for m in more])) for i, k in enumerate(PRECISIONS)}
    _keep(spec, probing, np.array(values), np.array(video), figures)


def _same_phase(
    own: np.ndarray, own_times: np.ndarray, partners: Sequence[tuple[np.ndarray, np.ndarray]], bins: int
) -> np.ndarray:
    """Return whether each time's nearest times elsewhere, best first, show the same part of their video; (T, K)."""
    gallery = np.concatenate([vectors for vectors, _ in partners])
    phase = np.concatenate([_phase(times, bins) for _, times in partners])
    nearest = np.argsort(-(own @ gallery.T), axis=1, kind="stable")[:, : max(PRECISIONS)]
    same: np.ndarray = phase[nearest] == _phase(own_times, bins)[:, None]
    return same


def _phase(times: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((times * bins).astype(np.int64), bins - 1)


def _keep(
    spec: DiagnosticProbe,
    probing: Probing,
    value_K: np.ndarray,
    video_K: np.ndarray,
    figures: dict[str, float],
    chosen_on: str = "nothing was chosen",
) -> None:
    setting = probing.setting
    excluded = sum(setting.used.coverage.excluded_test.values())
    used = len(set(video_K.tolist()))
    top1 = float(value_K.mean())
    fields: dict[str, Any] = {
        **setting.common,
        "id": result_id(setting.common, spec.kind),
        "probe": spec.kind,
        "protocol": "pairs" if spec.kind in ("order", "overlap", "speed") else "same_class",
        "top1": top1,
        "interval": bootstrap_interval(value_K, [setting.test_groups[v] for v in video_K], seed=spec.seed),
        "used": used,
        "excluded": excluded + len(setting.used.test) - used,
        "top1_excluded_wrong": top1 * used / max(len(setting.used.test) + excluded, 1),
        "num_train": len(setting.used.train),
        "num_classes": round(1 / figures["chance"]),
        "seed": spec.seed,
        "found": TrainingFound(chosen_on=chosen_on),
        "figures": figures,
        "is_headline": True,
    }
    probing.findings.results.append(ProbeResult(**fields))
