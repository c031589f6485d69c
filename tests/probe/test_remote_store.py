"""Probes and search on an object store (a real S3 API on loopback) find what they find on a disk, to the last digit."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import FeatureStore
from pipeline.settings import Settings
from probe import open_index, plan_index, plan_probe, read_report, run_index, run_probe
from probe.results import PREDICTIONS_FILE
from tests.probe.test_stage import LABELS, SPLITS, recipe, values
from tests.support.s3 import S3Server
from tests.support.stores import fill_embeddings, make_store

HERE = Settings(device="cpu")
PROBES = (
    {"kind": "knn", "crops": "c", "k": [3], "readouts": ["mean", "moments", "cls", "joined"]},
    {"kind": "linear", "crops": "c", "penalties": [0.1], "readouts": ["mean", "crops", "moments", "cls"]},
    {"kind": "retrieval", "crops": "c"},
    {"kind": "order", "crops": "c"},
)
NUMBERS = {"results", "coverage", "leaks", "comparisons", "doubts", "classes"}


def measured(place: str | Path) -> tuple[dict[str, Any], bytes, tuple[np.ndarray, ...]]:
    """Make the store, measure, and return the numbers, every video's prediction, and some videos' neighbours."""
    store = make_store(place, crops="c", feature_set="x3d_xs", labels=LABELS, splits=SPLITS, values=values())
    fill_embeddings(store, "scale", values().mean(axis=1)[:, :5])
    wanted = recipe(*PROBES, embed=True, indexes=[{"name": "default", "crops": "c", "backbone": "x3d_xs"}])
    run_probe(plan_probe(wanted, store, HERE), store, HERE, render=lambda report: "<html>")
    run_index(plan_index(wanted, store, HERE), store, HERE)
    again = FeatureStore.open(store.url)
    ds = again.dataset("toy")
    name = ds.artifacts("reports")[0]
    numbers = read_report(ds, name).model_dump(mode="json", include=NUMBERS)
    for result in numbers["results"]:
        result["snapshot"] = bool(result["snapshot"])  # names the store's own files, times included
    neighbours = open_index(again, "toy").search(values().mean(axis=1)[:6], 5)
    return numbers, ds.artifact("reports", name).read(PREDICTIONS_FILE), tuple(neighbours)


def test_the_same_numbers_from_s3_and_from_a_disk(tmp_path: Path, s3: S3Server) -> None:
    here, there = measured(tmp_path / "store"), measured(f"s3://features/{uuid.uuid4().hex}/store")
    assert {r["probe"] for r in here[0]["results"]} == {"knn", "linear", "retrieval", "order"}
    assert here[0] == there[0]
    assert here[1] == there[1]
    for local, remote in zip(here[2], there[2], strict=True):
        np.testing.assert_array_equal(local, remote)
