"""Diagnostics: features that carry time answer, features that do not are at chance, and the answers are exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import NoDataError
from pipeline.storage.schema import GEOMETRY_COLUMNS
from probe.maths import crops_in_time as crops
from probe.results import ProbeResult
from tests.probe.test_stage import measure, recipe
from tests.support.stores import make_store

NUM, CROPS = 40, 6
LABELS = ["run", "walk"] * (NUM // 2)


def boxes(strides: tuple[float, ...] = (4.0,)) -> np.ndarray:
    """Crops of a second, every half second, in an order of their own in each video."""
    found = np.zeros((NUM, CROPS, len(GEOMETRY_COLUMNS)), np.float32)
    rng = np.random.default_rng(1)
    for n in range(NUM):
        start = rng.permutation(CROPS) / 2
        found[n, :, 0], found[n, :, 1] = start, start + 1
        found[n, :, 4:6] = 100
        found[n, :, 7] = np.resize(strides, CROPS)
    return found


def store_at(folder: Path, geometry: np.ndarray, knows: str) -> FeatureStore:
    rng = np.random.default_rng(2)
    values = 0.05 * rng.standard_normal((NUM, CROPS, 10)).astype(np.float32)
    if knows == "time":
        moment = np.rint(2 * geometry[..., 0]).astype(int)
        values += np.eye(10)[moment]
        values[..., 9] = geometry[..., 0] / 2
    elif knows == "speed":
        values[..., 0] += geometry[..., 7] / 4
    return make_store(folder, crops="c", feature_set="x3d_xs", labels=LABELS, splits=["train"] * 24 + ["test"] * 16,
                      values=values, geometry=geometry, shard_rows=NUM)  # fmt: skip


def answers(store: FeatureStore, *kinds: str, **fields: Any) -> dict[str, ProbeResult]:
    report = measure(store, recipe(*({"kind": kind, "crops": "c", **fields} for kind in kinds)))
    return {result.probe: result for result in report.results}


def test_features_of_time_answer(tmp_path: Path) -> None:
    found = answers(store_at(tmp_path, boxes(), "time"), "order", "overlap", "tau", "phase")
    assert {kind: result.top1 > 0.9 for kind, result in found.items()} == dict.fromkeys(found, True)
    assert found["tau"].figures["tau"] == pytest.approx(2 * found["tau"].top1 - 1)
    assert found["order"].figures["chance"] == 0.5
    assert found["overlap"].figures["chance"] == 0.5  # neighbours overlap by a third, others not at all
    assert found["phase"].figures["precision_5"] > 0.9
    for result in found.values():
        low, high = result.interval
        assert low <= result.top1 <= high
        assert (result.used, result.excluded, result.num_train) == (16, 0, 24)


def test_features_of_nothing_are_at_chance(tmp_path: Path) -> None:
    found = answers(store_at(tmp_path, boxes(), "nothing"), "order", "tau", "phase", pairs=8)
    for result in found.values():
        assert abs(result.top1 - result.figures["chance"]) < 0.2, result.probe


def test_speed_is_told_by_features_of_it_and_refused_where_there_is_one(tmp_path: Path) -> None:
    geometry = boxes((4.0, 8.0))
    assert answers(store_at(tmp_path / "two", geometry, "speed"), "speed")["speed"].top1 == 1.0
    with pytest.raises(NoDataError, match="several strides"):
        answers(store_at(tmp_path / "one", boxes(), "speed"), "speed")


def test_answers_are_those_of_the_boxes() -> None:
    geometry, valid = boxes(), np.ones((NUM, CROPS), bool)
    valid[:, 0] = False
    values = np.zeros((NUM, CROPS, 2), np.float32)
    values[..., 0] = geometry[..., 0]
    values[..., 1] = np.arange(CROPS)
    order = crops.order_examples(values, valid, geometry, 9, 0)
    assert (order.answer == (order.vectors[:, 2] > order.vectors[:, 0])).all()
    assert not (order.vectors[:, [1, 3]] == 0).any()  # invalid crops are in no pair
    overlap = crops.overlap_examples(values, valid, geometry, 9, 0, 3)
    apart = np.abs(overlap.vectors[:, 0] - overlap.vectors[:, 2])
    assert (overlap.answer == (apart < 1)).all()  # half a second apart: a third of both, the first of three bins
    even = crops.balanced(overlap, 0)
    assert len(set(np.bincount(even.answer).tolist())) == 1


def test_tau_counts_pairs_in_order() -> None:
    a = np.eye(4)
    assert crops.agreement_in_order(a, a) == 1.0
    assert crops.agreement_in_order(a, a[::-1]) == 0.0
    assert crops.agreement_in_order(a, a[:1]) == 0.5  # all at one place: neither order
    assert crops.agreement_in_order(a, a[[1, 0, 2, 3]]) == pytest.approx(5 / 6)
