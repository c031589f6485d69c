"""The linear solution of VICReg and Barlow Twins in closed form: directions on which two views of a video agree.

For a linear network ``z = W x`` whose variance and covariance terms are met exactly (``W S W^T = I``), the invariance
term ``E |z - z'|^2`` is least where the rows of W are the leading eigenvectors of ``C w = rho (S + c I) w``, S being
the covariance of a view and C that between the two views of a video: canonical correlations between views
(VICReg, Bardes et al. 2022; Barlow Twins, Zbontar et al. 2021; closed form: Balestriero & LeCun, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.readouts.moments import crop_times
from pipeline.readouts.whitening import SAFE_STRENGTH, STRENGTHS, group_folds, knn_hits, spectrum

MAX_ROWS_TO_CHOOSE = 1000
"""A strength is chosen on so many training videos at most: each fold and candidate is an eigenproblem."""


@dataclass(frozen=True)
class AgreeingDirections:
    """``(x - mean) @ matrix``.

    Attributes
    ----------
    mean : ndarray
        (D,) float32.
    matrix : ndarray
        (D, R) float32.
    agreement : ndarray
        (R,) float32, descending: rho of each direction, shrinkage included.
    """

    mean: np.ndarray
    matrix: np.ndarray
    agreement: np.ndarray

    def __call__(self, values_ND: np.ndarray) -> np.ndarray:
        """Return (N, R) float32."""
        return (np.asarray(values_ND, np.float32) - self.mean) @ self.matrix

    def arrays(self) -> dict[str, np.ndarray]:
        """Return what is needed to build it again."""
        return {"vicreg_mean": self.mean, "vicreg_matrix": self.matrix, "vicreg_agreement": self.agreement}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> AgreeingDirections | None:
        """Build it from :meth:`arrays`; None where there is none."""
        names = ("vicreg_mean", "vicreg_matrix", "vicreg_agreement")
        return None if names[0] not in arrays else cls(*(np.asarray(arrays[name]) for name in names))


def fit_agreeing(first_ND: np.ndarray, second_ND: np.ndarray, *, outputs: int, strength: float) -> AgreeingDirections:
    """Fit on two views of the training videos.

    Parameters
    ----------
    first_ND, second_ND : ndarray
        Row n of both is the same video.
    outputs : int
        Directions kept, at most; those on which views do not agree (rho <= 0) never are.
    strength : float
        c in mean variances.

    Raises
    ------
    ShapeMismatchError
        If the views do not pair.
    InvalidInputError
        If `outputs` or `strength` is not above 0.
    """
    if first_ND.shape != second_ND.shape or first_ND.ndim != 2:
        raise ShapeMismatchError(f"expected two views (N, D) alike, found {first_ND.shape} and {second_ND.shape}")
    if outputs < 1 or not strength > 0:
        raise InvalidInputError(f"expected outputs and strength above 0, found {outputs} and {strength}")
    views = _Views.of(first_ND, second_ND)
    scaled_turns, agreement = views.agreeing(outputs, strength)
    matrix = views.vectors @ scaled_turns
    return AgreeingDirections(views.mean.astype(np.float32), matrix.astype(np.float32), agreement.astype(np.float32))


@dataclass(frozen=True)
class _Views:
    """Both views in the directions in which they vary: what all strengths share, and nearly all that costs."""

    mean: np.ndarray
    vectors: np.ndarray
    variances: np.ndarray
    mean_variance: float
    between: np.ndarray
    """(R, R): symmetric covariance between the views."""

    @classmethod
    def of(cls, first_ND: np.ndarray, second_ND: np.ndarray) -> _Views:
        mean, vectors, variances, mean_variance = spectrum(np.concatenate([first_ND, second_ND]))
        first, second = ((np.asarray(v, np.float64) - mean) @ vectors for v in (first_ND, second_ND))
        between = first.T @ second / max(len(first) - 0.5, 1)
        return cls(mean, vectors, variances, mean_variance, (between + between.T) / 2)

    def agreeing(self, outputs: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Return what makes outputs (R, E) of coordinates in these directions, and how much views agree on each."""
        scale = 1.0 / np.sqrt(self.variances + strength * self.mean_variance)
        agreement, turns = np.linalg.eigh(self.between * scale[:, None] * scale)
        keep = np.flatnonzero(agreement > 0)[::-1][:outputs]
        return scale[:, None] * turns[:, keep], agreement[keep]


def choose_agreeing_strength(
    views: tuple[np.ndarray, np.ndarray],
    whole_ND: np.ndarray,
    targets_NC: np.ndarray,
    groups: Sequence[str],
    *,
    outputs: int,
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[float, dict[float | None, float]]:
    """Choose a strength by kNN accuracy on training groups held out.

    With too little, every training video gets directions of its own, and no other video has a part in them.

    Parameters
    ----------
    views : pair of ndarray
    whole_ND : ndarray
        The same videos, whole.
    targets_NC : ndarray, bool
    groups : sequence of str
    outputs : int
    strengths : sequence of float

    Returns
    -------
    strength : float
        The best; of equals the stronger shrinkage. `SAFE_STRENGTH` where fewer than two folds can be made.
    accuracy : dict
        Of every candidate.
    """
    rows = np.unique(np.linspace(0, len(whole_ND) - 1, min(len(whole_ND), MAX_ROWS_TO_CHOOSE)).astype(np.int64))
    first, second, whole, targets = views[0][rows], views[1][rows], whole_ND[rows], targets_NC[rows]
    fold_of = group_folds([groups[i] for i in rows])
    num_folds = int(fold_of.max(initial=-1)) + 1
    if num_folds < 2:
        return SAFE_STRENGTH, {}
    hits: dict[float | None, list[np.ndarray]] = {s: [] for s in strengths}
    for fold in range(num_folds):
        inside, outside = fold_of != fold, fold_of == fold
        found = _Views.of(first[inside], second[inside])
        train, test = ((np.asarray(whole[at], np.float64) - found.mean) @ found.vectors for at in (inside, outside))
        for strength in strengths:
            turns, _ = found.agreeing(outputs, strength)
            hits[strength].append(knn_hits(train @ turns, targets[inside], test @ turns, targets[outside]))
    accuracy = {s: float(np.concatenate(h).mean()) for s, h in hits.items()}
    return max(strengths, key=lambda s: (accuracy[s], s)), accuracy


def halves(valid_NV: np.ndarray, geometry_NVG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split each video's valid crops into two views, (N, V) bool each: every other time; a single time by place."""
    order = np.lexsort((np.broadcast_to(np.arange(valid_NV.shape[1]), valid_NV.shape), crop_times(geometry_NVG)))
    times = np.take_along_axis(crop_times(geometry_NVG), order, 1)
    is_new = np.concatenate([np.ones((len(times), 1), bool), np.diff(times, axis=1) > 1e-9], axis=1)
    has_times = is_new.sum(1) > 1
    rank = np.where(has_times[:, None], np.cumsum(is_new, axis=1), np.arange(times.shape[1])[None])
    odd = np.zeros(valid_NV.shape, bool)
    np.put_along_axis(odd, order, rank % 2 == 0, axis=1)
    return valid_NV & ~odd, valid_NV & odd
