"""Figures of merit as pure functions of scores and truth.

Shape legend: Q test rows, C classes. Truth is a boolean matrix, so that one
definition serves single-label and multi-label sets.
"""

from __future__ import annotations

import numpy as np


def hits(predicted_Q: np.ndarray, truth_QC: np.ndarray) -> np.ndarray:
    """Return (Q,) bool: the predicted class is (one of) the row's. A row without a class is never hit."""
    return np.take_along_axis(truth_QC, predicted_Q[:, None], axis=1).ravel()


def top_k_hits(scores_QC: np.ndarray, truth_QC: np.ndarray, k: int) -> np.ndarray:
    """Return (Q,) bool: one of the row's classes is among its `k` best-scored.

    Of equal scores the lower class counts as better. With k of C or more, every row with a class is hit.
    """
    order = np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]
    found: np.ndarray = np.take_along_axis(truth_QC, order, axis=1)
    return found.sum(axis=1) > 0


def class_accuracy(hit_Q: np.ndarray, truth_QC: np.ndarray) -> np.ndarray:
    """Return (C,) float64: share of each class's rows that are hit; NaN for a class without rows."""
    counts = truth_QC.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(counts > 0, (truth_QC & hit_Q[:, None]).sum(axis=0) / np.maximum(counts, 1), np.nan)


def mean_class_accuracy(hit_Q: np.ndarray, truth_QC: np.ndarray) -> float | None:
    """Return the mean of :func:`class_accuracy` over the classes that have rows; None without any."""
    values = class_accuracy(hit_Q, truth_QC)
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def confusion(true_Q: np.ndarray, predicted_Q: np.ndarray, num_classes: int) -> np.ndarray:
    """Return (C, C) int64 counts, [true][predicted]."""
    return np.bincount(true_Q * num_classes + predicted_Q, minlength=num_classes**2).reshape(num_classes, num_classes)


def average_precision(scores_Q: np.ndarray, is_relevant_Q: np.ndarray) -> float | None:
    """Return the area under the precision-recall steps; None without a relevant row.

    Rows of equal score are taken together, so that their order cannot matter.

    Notes
    -----
    sum over distinct thresholds of (recall_i - recall_{i-1}) * precision_i, as
    in scikit-learn's `average_precision_score`.
    """
    num_relevant = int(is_relevant_Q.sum())
    if num_relevant == 0:
        return None
    order = np.argsort(-scores_Q, kind="stable")
    scores, relevant = scores_Q[order], is_relevant_Q[order]
    last_of_threshold = np.append(scores[1:] != scores[:-1], True)
    found = np.cumsum(relevant)[last_of_threshold]
    precision = found / (np.flatnonzero(last_of_threshold) + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / num_relevant)


def mean_average_precision(scores_QC: np.ndarray, truth_QC: np.ndarray) -> float | None:
    """Return the mean over classes (those with a relevant row) of :func:`average_precision`; None without any."""
    values = [average_precision(scores_QC[:, c], truth_QC[:, c]) for c in range(truth_QC.shape[1])]
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
