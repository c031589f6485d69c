"""Numbers that should not be believed are said: below chance, below the mean, from a model that learned nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.events import Event, Note
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
