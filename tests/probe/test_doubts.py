"""Numbers that should not be believed are said: below chance, below the mean, from a model that learned nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from pipeline import FeatureStore
from pipeline.events import Event, Note
from pipeline.reports import doubts_of
from tests.probe.test_stage import KNN, LABELS, measure, recipe, store_at, values
from tests.support.stores import fill_embeddings


def test_an_embedding_below_the_mean_of_its_crops_is_said(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    fill_embeddings(store, "scale", np.random.default_rng(0).standard_normal((len(LABELS), 5)))
    heard: list[Event] = []
    report = measure(store, recipe({**KNN, "readouts": ["mean", "cls"]}, embed=True), heard)
    (line,) = [text for text in report.warnings if "below the mean" in text]
    assert "cls scale" in line
    assert any(isinstance(e, Note) and "below the mean" in e.text and e.level == "warning" for e in heard)


def test_numbers_below_chance_are_said(tmp_path: Path) -> None:
    """Test videos look like the other class: two classes told apart, the wrong way round."""
    swapped = [*LABELS[:24], *("walk" if x == "run" else "run" for x in LABELS[24:])]
    report = measure(store_at(tmp_path, labels=swapped, values=values()), recipe({**KNN, "readouts": ["mean"]}))
    assert any("below chance (50.0 % of 2 classes)" in text for text in report.warnings)


def test_sound_numbers_raise_no_doubt(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    fill_embeddings(store, "scale", values().mean(axis=1)[:, :5])
    report = measure(store, recipe({**KNN, "readouts": ["mean", "cls"]}, embed=True))
    assert not [text for text in report.warnings if "below" in text]


def trained(store: FeatureStore, epochs: int, *, chance: float = 4.0) -> str:
    """Leave a version of the model `scale` with figures beside it; return the sha256 of its weights."""
    weights = f"{epochs}" * 64
    lines = [{"step": step, "loss": 4.0 + epochs / step, "lr": 0.1} for step in range(1, 1001)]
    meta = {"weights_sha256": weights, "chance": chance, "objective": "scale", "num_steps": 1000, "doubts": ["nothing"]}
    files = {"metrics.jsonl": "\n".join(json.dumps(line) for line in lines).encode()}
    store.dataset("toy").save_artifact("models", "scale", files, meta)
    return weights


def test_the_training_behind_an_embedding_stands_in_the_report(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    used = trained(store, 1)
    trained(store, 2)  # a newer version, which no embedding was made by
    made = {"model": {"name": "scale", "weights_sha256": used}}
    fill_embeddings(store, "scale", values().mean(axis=1)[:, :5], fingerprint=made)
    report = measure(store, recipe({**KNN, "readouts": ["mean", "cls"]}, embed=True))
    (one,) = report.trainings
    assert (one.model, one.objective, one.num_steps, one.chance) == ("scale", "scale", 1000, 4.0)
    assert (one.steps[0], one.loss[0], one.steps[-1], one.loss[-1]) == (1, 5.0, 1000, 4.001)
    assert len(one.steps) <= 241
    assert report.doubts == ("model scale: nothing",)
    assert set(report.doubts) <= set(report.warnings)
    assert doubts_of(report) == report.doubts  # what a run's state says


def test_an_embedding_that_has_collapsed_is_said(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    fill_embeddings(store, "scale", np.full((len(LABELS), 5), 3.0))
    report = measure(store, recipe({**KNN, "readouts": ["mean", "cls"]}, embed=True))
    assert [text for text in report.doubts if text.startswith("scale: the embeddings of 40 videos have collapsed")]


def test_figures_that_are_gone_or_broken_leave_no_curve(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    meta = {"weights_sha256": "a" * 64, "chance": None, "objective": "scale"}
    store.dataset("toy").save_artifact("models", "scale", {"metrics.jsonl": b"[1]\nno json"}, meta)
    made = {"model": {"name": "scale", "weights_sha256": "a" * 64}}
    fill_embeddings(store, "scale", values().mean(axis=1)[:, :5], fingerprint=made)
    report = measure(store, recipe({**KNN, "readouts": ["mean", "cls"]}, embed=True))
    assert [(one.model, one.loss, one.chance) for one in report.trainings] == [("scale", (), None)]
