"""PCA whitening, fitted in one pass over any number of embeddings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import InvalidInputError, NoDataError

RELATIVE_FLOOR = 1e-6
"""Directions with less than this share of the largest variance are noise, and dropped."""


@dataclass(frozen=True)
class Whitening:
    """``(x - mean) @ matrix``: unit variance in every kept direction of the rows it was fitted on.

    Attributes
    ----------
    mean : Tensor
        (E,) float32.
    matrix : Tensor
        (E, F) float32.
    """

    mean: Tensor
    matrix: Tensor

    @property
    def output_dim(self) -> int:
        """Kept directions F."""
        return self.matrix.shape[1]

    def apply(self, values: Tensor) -> Tensor:
        """(..., E) -> (..., F)."""
        return (values - self.mean.to(values.device)) @ self.matrix.to(values.device)


def fit_whitening(blocks: Iterable[Tensor], *, shrinkage: float = 1e-3) -> Whitening:
    """Fit on blocks of embeddings (training rows only, or a test set leaks into every number).

    Parameters
    ----------
    blocks : iterable of Tensor
        (n, E) each; sums are kept in float64, memory is E x E.
    shrinkage : float
        Share of the mean variance added to every direction before inverting, so
        that directions seen on few rows do not explode.

    Raises
    ------
    NoDataError
        With fewer than two rows.
    InvalidInputError
        If a block is not (n, E), or holds NaN.
    """
    total: Tensor | None = None
    products: Tensor | None = None
    count = 0
    for block in blocks:
        if block.ndim != 2 or (total is not None and block.shape[1:] != total.shape):
            width = "E" if total is None else len(total)
            raise InvalidInputError(f"expected blocks of embeddings (n, {width}), found {tuple(block.shape)}")
        x = block.double().cpu()
        if not bool(torch.isfinite(x).all()):
            raise InvalidInputError("expected finite embeddings, found NaN or infinity; leave those rows out")
        count += len(x)
        total = x.sum(0) if total is None else total + x.sum(0)
        products = x.mT @ x if products is None else products + x.mT @ x
    if total is None or products is None or count < 2:
        raise NoDataError(f"expected at least 2 embeddings to fit a whitening on, found {count}")
    mean = total / count
    covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
    variances, directions = torch.linalg.eigh(covariance)
    keep = variances > RELATIVE_FLOOR * variances[-1].clamp_min(1e-30)
    variances, directions = variances[keep].flip(0), directions[:, keep].flip(1)
    # The sign of an eigenvector is arbitrary: the largest entry is positive, so that two fits agree.
    directions = directions * directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()
    scale = (variances + shrinkage * variances.mean()).rsqrt()
    return Whitening(mean.float(), (directions * scale).float())
