"""Whitening with strong shrinkage: the directions along which training rows vary most are damped, none amplified.

With fewer videos than channels the small variances are noise; a plain whitening multiplies it. ``(S + c I)^(-1/2)``
with c several mean variances leaves those directions as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidInputError, NoDataError

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""What is tried where training groups choose, in mean variances."""
SAFE_STRENGTH = 10.0
"""Where nothing can be chosen: weak enough to do no harm on a few hundred videos."""
NUM_FOLDS = 5
NEIGHBOURS, TEMPERATURE = 20, 0.07
MIN_CHANGE = 1e-6


@dataclass(frozen=True)
class ShrunkWhitening:
    """``c^(1/2) (S + c I)^(-1/2) (x - mean)`` as a low-rank change of x; other directions stay as they are.

    Attributes
    ----------
    mean : ndarray
        (D,) float32.
    directions : ndarray
        (D, R) float32, orthonormal.
    damping : ndarray
        (R,) float32 in 0..1: what is taken away along each.
    strength : float
        c in mean variances.
    """

    mean: np.ndarray
    directions: np.ndarray
    damping: np.ndarray
    strength: float

    def __call__(self, values_ND: np.ndarray) -> np.ndarray:
        """Return (N, D) float32."""
        centred = np.asarray(values_ND, np.float32) - self.mean
        return centred - ((centred @ self.directions) * self.damping) @ self.directions.T

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is needed to build it again."""
        return {
            "whitening_mean": self.mean,
            "whitening_directions": np.ascontiguousarray(self.directions),
            "whitening_damping": self.damping,
            "whitening_strength": np.array([self.strength], np.float64),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ShrunkWhitening | None:
        """Build it from :meth:`arrays`; None where there is none."""
        if "whitening_mean" not in arrays:
            return None
        names = ("whitening_mean", "whitening_directions", "whitening_damping")
        mean, directions, damping = (np.asarray(arrays[name]) for name in names)
        return cls(mean, directions, damping, float(arrays["whitening_strength"][0]))


def spectrum(values_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return mean (D,), principal directions (D, R), their variances (R,) and the mean variance over all D channels.

    Through the smaller of the two Gram matrices.

    Raises
    ------
    NoDataError
        With fewer than two rows.
    """
    x = np.asarray(values_ND, np.float64)
    if len(x) < 2:
        raise NoDataError(f"expected at least 2 training rows to whiten by, found {len(x)}")
    mean = x.mean(0)
    x = x - mean
    rows_are_fewer = len(x) <= x.shape[1]
    gram = (x @ x.T if rows_are_fewer else x.T @ x) / (len(x) - 1)
    variances, vectors = np.linalg.eigh(gram)
    keep = variances > 1e-9 * max(variances[-1], 1e-300)
    variances, vectors = variances[keep][::-1], vectors[:, keep][:, ::-1]
    if rows_are_fewer:
        vectors = x.T @ vectors / np.sqrt(variances * (len(x) - 1))
    return mean, vectors, variances, float(np.trace(gram)) / x.shape[1]


def fit_whitening(values_ND: np.ndarray, strength: float) -> ShrunkWhitening:
    """Fit on training rows.

    Parameters
    ----------
    values_ND : ndarray
    strength : float
        Above 0, in mean variances; large ones change nothing.

    Raises
    ------
    InvalidInputError
        If the strength is not above 0.
    NoDataError
        With fewer than two rows.
    """
    if not strength > 0:
        raise InvalidInputError(f"expected a whitening strength above 0, in mean variances, found {strength}")
    return _damped(spectrum(values_ND), strength)


def _damped(found: tuple[np.ndarray, np.ndarray, np.ndarray, float], strength: float) -> ShrunkWhitening:
    mean, vectors, variances, mean_variance = found
    added = max(strength * mean_variance, 1e-300)
    damping = 1.0 - np.sqrt(added / (variances + added))
    keep = damping > MIN_CHANGE
    return ShrunkWhitening(
        mean.astype(np.float32), vectors[:, keep].astype(np.float32), damping[keep].astype(np.float32), float(strength)
    )


def whiten_parts(values_ND: np.ndarray, own: Sequence[ShrunkWhitening]) -> np.ndarray:
    """Whiten each part of joined rows by itself, (N, D) float32; its length, which is its say, stays."""
    done = []
    for part, whiten in zip(np.split(values_ND, np.cumsum([len(w.mean) for w in own])[:-1], axis=1), own, strict=True):
        turned = whiten(part)
        lengths = (np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (part, turned))
        before, after = lengths
        done.append((turned * (before / np.where(after > 0, after, 1))).astype(np.float32))
    return np.concatenate(done, axis=1)


def choose_strength(
    values_ND: np.ndarray,
    targets_NC: np.ndarray,
    groups: Sequence[str],
    strengths: Sequence[float] = STRENGTHS,
    *,
    dims: Sequence[int] = (),
) -> tuple[float | None, dict[float | None, float]]:
    """Choose a strength (None: no whitening) by kNN accuracy on training groups held out.

    Parameters
    ----------
    values_ND : ndarray
        Joined parts of training rows.
    targets_NC : ndarray, bool
    groups : sequence of str
        Rows of one group are held out together.
    strengths : sequence of float
    dims : sequence of int, optional
        Channels of each part: they are whitened one by one.

    Returns
    -------
    strength : float or None
        The best; of equals the stronger shrinkage, which is the safer one. `SAFE_STRENGTH` where fewer than two
        folds can be made.
    accuracy : dict
        Of every candidate, None among them.
    """
    fold_of = group_folds(groups)
    num_folds = int(fold_of.max(initial=-1)) + 1
    if num_folds < 2:
        return SAFE_STRENGTH, {}
    hits: dict[float | None, list[np.ndarray]] = {s: [] for s in (*strengths, None)}
    for fold in range(num_folds):
        inside, outside = fold_of != fold, fold_of == fold
        parts = np.split(values_ND[inside], np.cumsum(dims)[:-1], axis=1) if dims else [values_ND[inside]]
        found = [spectrum(part) for part in parts]
        for strength, kept in hits.items():
            train, test = values_ND[inside], values_ND[outside]
            if strength is not None:
                own = [_damped(one, strength) for one in found]
                train, test = ((whiten_parts(x, own) if dims else own[0](x)) for x in (train, test))
            kept.append(knn_hits(train, targets_NC[inside], test, targets_NC[outside]))
    accuracy = {s: float(np.concatenate(h).mean()) for s, h in hits.items()}
    return max(accuracy, key=lambda s: (accuracy[s], np.inf if s is None else s)), accuracy


def group_folds(groups: Sequence[str], num_folds: int = NUM_FOLDS) -> np.ndarray:
    """Deal groups into folds of near-equal size, largest first; (N,) int64. The order of rows does not matter."""
    names, index, sizes = np.unique(
        np.asarray(groups, dtype=object).astype(str), return_inverse=True, return_counts=True
    )
    filled = np.zeros(min(num_folds, len(names)), np.int64)
    fold = np.zeros(len(names), np.int64)
    for number in np.lexsort((np.arange(len(names)), -sizes)):
        fold[number] = int(filled.argmin())
        filled[fold[number]] += sizes[number]
    return fold[index.reshape(-1)]


def knn_hits(train: np.ndarray, truth: np.ndarray, test: np.ndarray, test_truth: np.ndarray) -> np.ndarray:
    """Weighted nearest neighbours as in the kNN probe (k = 20, T = 0.07), on vectors made unit length."""
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in (test, train)]
    similarity = unit[0] @ unit[1].T
    k = min(NEIGHBOURS, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    weight = np.exp((np.take_along_axis(similarity, nearest, 1) - similarity.max(1, keepdims=True)) / TEMPERATURE)
    scores = np.einsum("qk,qkc->qc", weight, truth[nearest].astype(np.float64))
    return test_truth[np.arange(len(test)), scores.argmax(1)]
