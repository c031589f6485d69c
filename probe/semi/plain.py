"""The labelled videos alone: what every other method must beat."""

from __future__ import annotations

import numpy as np

from probe.semi.softmax import fit_softmax, probabilities
from probe.semi.task import Task, method

TEMPERATURE = 0.07


@method("plain")
def plain(task: Task) -> np.ndarray:
    """Softmax regression."""
    known = task.targets()[task.labelled]
    return probabilities(task.test, fit_softmax(task.train[task.labelled], known, task.spec.l2))


@method("knn")
def neighbours(task: Task) -> np.ndarray:
    """Weighted nearest labelled videos."""
    similarity = task.test @ task.train[task.labelled].T
    return vote(similarity, task.targets()[task.labelled], task.spec.neighbours)


def vote(similarity_QN: np.ndarray, targets_NC: np.ndarray, k: int) -> np.ndarray:
    """Return (Q, C): the votes of the k most similar rows, each exp(similarity / 0.07), of sum 1."""
    k = min(k, similarity_QN.shape[1])
    nearest = np.argsort(-similarity_QN, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(similarity_QN, nearest, 1).astype(np.float64)
    weight = np.exp((found - found.max(1, keepdims=True)) / TEMPERATURE)
    scores = np.einsum("qk,qkc->qc", weight, targets_NC[nearest])
    total: np.ndarray = scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)
    return total
