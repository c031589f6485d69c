"""The labelled videos alone: what every other method must beat."""

from __future__ import annotations

import numpy as np

from probe.maths.exact_search import nearest
from probe.maths.knn import SCALE_TEMPERATURE
from probe.semi.softmax import fit_softmax, probabilities
from probe.semi.task import Task, method


@method("plain")
def plain(task: Task) -> np.ndarray:
    """Softmax regression."""
    known = task.targets()[task.labelled]
    return probabilities(task.test, fit_softmax(task.train[task.labelled], known, task.spec.l2))


@method("knn")
def neighbours(task: Task) -> np.ndarray:
    """Weighted nearest labelled videos."""
    return vote(task.test, task.train[task.labelled], task.targets()[task.labelled], task.spec.neighbours)


def vote(queries_QD: np.ndarray, gallery_ND: np.ndarray, targets_NC: np.ndarray, k: int) -> np.ndarray:
    """Return (Q, C): what the k nearest rows say, each weighted as in the kNN probe, of sum 1.

    Parameters
    ----------
    queries_QD, gallery_ND : ndarray
        Unit vectors.
    targets_NC : ndarray
        Shares of the classes.
    """
    found = nearest(queries_QD, gallery_ND, k)
    weight = np.exp((found.similarity_QK - found.similarity_QK[:, :1]) / SCALE_TEMPERATURE)
    scores = np.einsum("qk,qkc->qc", weight, targets_NC[found.index_QK])
    total: np.ndarray = scores / np.maximum(scores.sum(1, keepdims=True), 1e-12)
    return total
