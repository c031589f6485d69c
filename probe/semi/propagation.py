"""Label propagation (Zhou et al., NIPS 2003) over nearest neighbours of train videos; test videos ask their neighbours.

F = (1 - a) (I - a S)^-1 Y,   S = D^-1/2 W D^-1/2,   W_ij = exp(s_ij / T) where i is among j's neighbours or j among i's
"""

from __future__ import annotations

import numpy as np

from probe.semi.plain import TEMPERATURE, vote
from probe.semi.task import Task, method

ALPHA = 0.9
ITERATIONS = 60
"""0.9 ^ 60 is 0.002: what is left of the series changes no answer."""
ROWS_PER_BLOCK = 1024


@method("propagation")
def propagation(task: Task) -> np.ndarray:
    """Spread labels, then let the nearest train videos vote with what they got."""
    edges, weights = neighbour_graph(task.train, task.spec.neighbours)
    spread = propagate(edges, weights, task.targets())
    spread /= np.maximum(spread.sum(1, keepdims=True), 1e-12)
    found = [
        vote(task.test[at : at + ROWS_PER_BLOCK] @ task.train.T, spread, task.spec.neighbours)
        for at in range(0, len(task.test), ROWS_PER_BLOCK)
    ]
    return np.concatenate(found) if found else np.zeros((0, spread.shape[1]))


def neighbour_graph(vectors_ND: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges (2, E), both ways and each once, and their weights."""
    pairs: dict[tuple[int, int], float] = {}
    k = min(k, len(vectors_ND) - 1)
    for at in range(0, len(vectors_ND), ROWS_PER_BLOCK):
        similarity = (vectors_ND[at : at + ROWS_PER_BLOCK] @ vectors_ND.T).astype(np.float64)
        rows = np.arange(len(similarity))
        similarity[rows, at + rows] = -np.inf
        nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        for i, row in enumerate(nearest):
            for j in row.tolist():
                weight = float(np.exp((similarity[i, j] - 1) / TEMPERATURE))
                pairs[at + i, j] = pairs[j, at + i] = weight
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
