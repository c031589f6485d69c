"""Metrics by hand, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from probe.maths import metrics


def test_hits_and_top_k_by_hand() -> None:
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.5, 0.0], [0.0, 0.1, 0.9]])
    truth = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    assert metrics.hits(scores.argmax(1), truth).tolist() == [False, False, True]
    # Of the equal scores in row 1 the lower class counts as better.
    assert metrics.top_k_hits(scores, truth, 1).tolist() == [False, False, True]
    assert metrics.top_k_hits(scores, truth, 2).tolist() == [False, True, True]
    assert metrics.top_k_hits(scores, truth, 9).all()


def test_class_accuracy_leaves_out_classes_without_rows() -> None:
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
    hit = np.array([True, False, True])
    np.testing.assert_array_equal(metrics.class_accuracy(hit, truth), [0.5, 1.0, np.nan])
    assert metrics.mean_class_accuracy(hit, truth) == pytest.approx(0.75)
    assert metrics.mean_class_accuracy(hit[:0], truth[:0]) is None


def test_confusion_by_hand() -> None:
    matrix = metrics.confusion(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    assert matrix.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_average_precision_by_hand() -> None:
    """Relevant at places 1 and 3 of 4: (1/1 + 2/3) / 2."""
    value = metrics.average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert value == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision(np.array([0.9]), np.array([False])) is None


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(2, 40), levels=st.integers(1, 6))
def test_average_precision_equals_sklearn_also_with_ties(seed: int, size: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores, relevant = rng.integers(0, levels, size) / levels, rng.random(size) < 0.4
    if relevant.any():
        expected = oracle.average_precision_score(relevant, scores)
        assert metrics.average_precision(scores, relevant) == pytest.approx(expected)


def test_mean_average_precision_skips_classes_nobody_has() -> None:
    scores = np.array([[0.9, 0.1, 0.3], [0.2, 0.8, 0.3]])
    truth = np.array([[1, 0, 0], [0, 1, 0]], bool)
    assert metrics.mean_average_precision(scores, truth) == pytest.approx(1.0)
    assert metrics.mean_average_precision(scores, np.zeros((2, 3), bool)) is None
