"""The linear solution of VICReg and Barlow Twins in closed form: directions on which two views of a video agree.

For a linear network ``z = W x`` whose variance and covariance terms are met exactly (``W S W^T = I``), the invariance
term ``E |z - z'|^2`` is least where the rows of W are the leading eigenvectors of ``C w = rho (S + c I) w``, S being
the covariance of a view and C that between the two views of a video: canonical correlations between views
(VICReg, Bardes et al. 2022; Barlow Twins, Zbontar et al. 2021; closed form: Balestriero & LeCun, 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.errors import InvalidInputError, ShapeMismatchError
from pipeline.readouts.moments import crop_times
from pipeline.readouts.whitening import spectrum


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
    mean, vectors, variances, mean_variance = spectrum(np.concatenate([first_ND, second_ND]))
    scale = 1.0 / np.sqrt(variances + strength * mean_variance)
    first, second = ((np.asarray(v, np.float64) - mean) @ vectors * scale for v in (first_ND, second_ND))
    between = first.T @ second / max(len(first) - 0.5, 1)
    agreement, turns = np.linalg.eigh((between + between.T) / 2)
    keep = np.flatnonzero(agreement > 0)[::-1][:outputs]
    matrix = (vectors * scale) @ turns[:, keep]
    return AgreeingDirections(mean.astype(np.float32), matrix.astype(np.float32), agreement[keep].astype(np.float32))


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
