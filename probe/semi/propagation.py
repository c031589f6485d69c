"""Label propagation (Zhou et al., NIPS 2003) over nearest neighbours of train videos; test videos ask their neighbours.

F = (1 - a) (I - a S)^-1 Y,   S = D^-1/2 W D^-1/2,   W_ij = exp(s_ij / T) where i is among j's neighbours or j among i's
"""

from __future__ import annotations

import numpy as np

from probe.maths.exact_search import nearest
from probe.maths.knn import SCALE_TEMPERATURE
from probe.semi.plain import vote
from probe.semi.task import Task, method

ALPHA = 0.9
ITERATIONS = 60
"""0.9 ^ 60 is 0.002: what is left of the series changes no answer."""


@method("propagation")
def propagation(task: Task) -> np.ndarray:
    """Spread labels, then let the nearest train videos vote with what they got."""
    edges, weights = neighbour_graph(task.train, task.spec.neighbours)
    spread = propagate(edges, weights, task.targets())
    spread /= np.maximum(spread.sum(1, keepdims=True), 1e-12)
    return vote(task.test, task.train, spread, task.spec.neighbours)


def neighbour_graph(vectors_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges (2, E), both ways and each once, and their weights."""
    pairs: dict[tuple[int, int], float] = {}
    found = nearest(vectors_ND, vectors_ND, k + 1)
    is_self = found.index_QK == np.arange(len(vectors_ND))[:, None]
    others = np.argsort(is_self, axis=1, kind="stable")[:, : min(k, len(vectors_ND) - 1)]
    weights = np.exp((found.similarity_QK - 1) / SCALE_TEMPERATURE)
    for i, places in enumerate(others.tolist()):
        for place in places:
            j = int(found.index_QK[i, place])
            pairs[i, j] = pairs[j, i] = float(weights[i, place])
    edges = np.array(sorted(pairs), np.int64).reshape(-1, 2).T
    return edges, np.array([pairs[i, j] for i, j in edges.T.tolist()])


def propagate(edges_2E: np.ndarray, weights_E: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """Return what every row gets, (N, C)."""
    i, j = edges_2E
    degree = np.bincount(i, weights=weights_E, minlength=len(targets_NC))
    scale = 1 / np.sqrt(np.maximum(degree, 1e-300))
    normal = weights_E * scale[i] * scale[j]
    spread = targets_NC.copy()
    for _ in range(ITERATIONS):
        flow = np.zeros_like(spread)
        np.add.at(flow, i, normal[:, None] * spread[j])
        spread = ALPHA * flow + (1 - ALPHA) * targets_NC
    return spread
