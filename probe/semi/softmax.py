"""Softmax regression on a handful of rows, to convergence."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

MAX_ITERATIONS = 100


def fit_softmax(
    vectors_ND: np.ndarray, targets_NC: np.ndarray, l2: float, weights_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weights (C, D) and biases (C,) that minimise the mean cross-entropy plus ``l2 |W|^2``.

    Parameters
    ----------
    vectors_ND : ndarray
    targets_NC : ndarray
        Shares of the classes, rows sum to 1.
    l2 : float
    weights_N : ndarray, optional
        What each row counts; None: all the same.
    """
    x = torch.from_numpy(np.asarray(vectors_ND, np.float64))
    y = torch.from_numpy(np.asarray(targets_NC, np.float64))
    share = torch.ones(len(x), dtype=torch.float64) if weights_N is None else torch.from_numpy(weights_N)
    share = share / share.sum()
    # The best W is a sum of the rows: few rows are searched in their own few directions.
    basis, _ = torch.linalg.qr(x.mT) if len(x) < x.shape[1] else (torch.eye(x.shape[1], dtype=x.dtype), None)
    z = x @ basis
    w = torch.zeros(y.shape[1], z.shape[1], dtype=x.dtype, requires_grad=True)
    b = torch.zeros(y.shape[1], dtype=x.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = -(share[:, None] * y * functional.log_softmax(z @ w.mT + b, dim=1)).sum() + l2 * w.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return (w.detach() @ basis.mT).numpy(), b.detach().numpy()


def probabilities(vectors_ND: np.ndarray, fitted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return (N, C) class probabilities."""
    scores = np.asarray(vectors_ND, np.float64) @ fitted[0].T + fitted[1]
    scores = np.exp(scores - scores.max(1, keepdims=True))
    found: np.ndarray = scores / scores.sum(1, keepdims=True)
    return found
