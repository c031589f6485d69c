"""The kNN probe: one exact search at the largest k, then every k and temperature from the same neighbours.

Shape legend: Q queries (test rows), N gallery rows (train), D channels, K neighbours, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from probe.maths.exact_search import Neighbours, nearest, unit_vectors

Centring = Literal["none", "train", "per_split"]
SCALE_K = 20
SCALE_TEMPERATURE = 0.07
TIE_TOLERANCE = 1e-12
"""Scores closer than this (relative) are a tie: sums of the same weights in another order."""


def centre(train_ND: np.ndarray, test_QD: np.ndarray, centring: Centring) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean and normalise.

    Parameters
    ----------
    train_ND, test_QD : ndarray
    centring : {"none", "train", "per_split"}
        Nothing; the train rows' mean from both; each side's own. The last is
        what SCALE's code does (src/eval.py): it looks at the test set as a whole.

    Returns
    -------
    train, test : ndarray, float32
        Rows of norm 1 (0 where a row equals the mean).
    """
    train, test = np.asarray(train_ND, np.float32), np.asarray(test_QD, np.float32)
    if centring == "none" or not len(train):
        return unit_vectors(train), unit_vectors(test)
    train_mean = train.mean(axis=0, dtype=np.float64)
    test_mean = test.mean(axis=0, dtype=np.float64) if centring == "per_split" and len(test) else train_mean
    return unit_vectors(train - train_mean.astype(np.float32)), unit_vectors(test - test_mean.astype(np.float32))


@dataclass(frozen=True)
class KnnScores:
    """The outcome of one point of the k x temperature grid."""

    k: int
    """As asked for."""
    k_used: int
    """Smaller where the gallery is."""
    temperature: float
    scores_QC: np.ndarray
    """float64; each query's weights are relative to its best neighbour's."""
    predicted_Q: np.ndarray
    """int64 classes, ties broken."""


def vote_grid(
    neighbours: Neighbours, targets_NC: np.ndarray, ks: Iterable[int], temperatures: Iterable[float]
) -> list[KnnScores]:
    """Let the neighbours vote, each with weight exp(similarity / temperature).

    Parameters
    ----------
    neighbours : Neighbours
        Of one search; its K bounds every k.
    targets_NC : ndarray of shape (N, C), bool
        Which classes each gallery row has.
    ks, temperatures : iterable
        Every combination is returned, temperatures outermost.

    Returns
    -------
    list of KnnScores

    Notes
    -----
    A tie between classes goes to the one whose first member stands earliest
    among the neighbours; if one neighbour has both, to the lower class.

    Raises
    ------
    InvalidInputError
        If a k is below 1 or a temperature is not positive.
    """
    wanted = sorted(set(ks))
    if not wanted or wanted[0] < 1:
        raise InvalidInputError(f"expected k of at least 1, found {wanted}")
    grid = []
    num_queries, num_classes = len(neighbours.index_QK), targets_NC.shape[1]
    for temperature in temperatures:
        if not temperature > 0:
            raise InvalidInputError(f"expected a temperature above 0, found {temperature}")
        # Relative to the best neighbour: the same votes, and no overflow at small temperatures.
        weights = np.exp((neighbours.similarity_QK - neighbours.similarity_QK[:, :1]) / temperature)
        scores = np.zeros((num_queries, num_classes))
        done = 0
        for k in wanted:
            k_used = min(k, neighbours.k)
            for rank in range(done, k_used):
                scores += weights[:, rank, None] * targets_NC[neighbours.index_QK[:, rank]]
            done = max(done, k_used)
            votes = scores.copy()
            predicted = winners(votes, neighbours.index_QK[:, :k_used], targets_NC)
            grid.append(KnnScores(k, k_used, float(temperature), votes, predicted))
    return grid


def winners(scores_QC: np.ndarray, index_QK: np.ndarray, targets_NC: np.ndarray) -> np.ndarray:
    """Return the winning class of each query (Q,), int64; ties as in :func:`vote_grid`."""
    best = scores_QC.max(axis=1, keepdims=True)
    is_tied_QC = scores_QC >= best * (1 - TIE_TOLERANCE)
    winner = is_tied_QC.argmax(axis=1)
    for query in np.flatnonzero(is_tied_QC.sum(axis=1) > 1):
        among = targets_NC[index_QK[query]] & is_tied_QC[query]
        ranks_with_one = np.flatnonzero(among.any(axis=1))
        if len(ranks_with_one):
            winner[query] = among[ranks_with_one[0]].argmax()
    return winner.astype(np.int64)


def run_knn(
    train_ND: np.ndarray,
    test_QD: np.ndarray,
    targets_NC: np.ndarray,
    *,
    ks: Iterable[int] = (SCALE_K,),
    temperatures: Iterable[float] = (SCALE_TEMPERATURE,),
    centring: Centring = "train",
) -> tuple[list[KnnScores], Neighbours]:
    """Centre, search once at the largest k, vote for the whole grid.

    Parameters
    ----------
    train_ND, test_QD : ndarray
        Features as stored; centred and normalised here.
    targets_NC : ndarray of shape (N, C), bool
        Classes of the train rows.

    Raises
    ------
    ShapeMismatchError
        If `targets_NC` has another number of rows than `train_ND`.
    """
    if len(targets_NC) != len(train_ND):
        raise ShapeMismatchError(f"expected one row of targets a train row ({len(train_ND)}), found {len(targets_NC)}")
    ks, temperatures = tuple(ks), tuple(temperatures)
    train, test = centre(train_ND, test_QD, centring)
    neighbours = nearest(test, train, max(ks, default=0))
    return vote_grid(neighbours, targets_NC, ks, temperatures), neighbours
