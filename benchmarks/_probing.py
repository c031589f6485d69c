"""The two probes of the ablation tables, and intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

MIN_SEEDS = 5
"""Fewer give no interval worth printing."""


def knn_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, k: int = 20) -> float:
    """Weighted k nearest neighbours, cosine after subtracting the training mean, weights exp(s / 0.07)."""
    mean = train.mean(0)
    a, b = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (train - mean, test - mean))
    similarity = b @ a.T
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    weights = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.07)
    votes = np.stack([(weights * (labels[nearest] == c)).sum(1) for c in range(labels.max() + 1)], axis=1)
    return float((votes.argmax(1) == truth).mean())


def linear_accuracy(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray) -> float:
    """Logistic regression on standardised features; its strength chosen on the training rows alone."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    search = GridSearchCV(model, {"logisticregression__C": [1e-3, 1e-2, 1e-1]}, cv=3)
    return float(search.fit(train, labels).score(test, truth))


def interval(values: Sequence[float]) -> str:
    """Mean and 95 % t-interval over seeds, in per cent; with fewer than five seeds the range instead."""
    x = 100 * np.asarray(values)
    if len(x) < MIN_SEEDS:
        return f"{x.mean():.1f} ({x.min():.1f} to {x.max():.1f})" if x.min() < x.max() else f"{x.mean():.1f}"
    half = stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return f"{x.mean():.1f} ± {half:.1f}"
