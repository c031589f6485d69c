"""L-BFGS over several problems of one shape at once: they share products, and each stops when it is done.

torch.optim.LBFGS and scipy's know one problem: one line search, one end. What is written here is the two-loop
recursion of Nocedal and Wright (algorithm 7.4) with sums a problem; the functions are convex, and scaled so that a
step of one fits nearly always.
Shape legend: P problems, X unknowns.
"""

from __future__ import annotations

from typing import Protocol, Self

import torch
from torch import Tensor

MAX_STEPS = 200
MEMORY = 8
"""Steps that are remembered."""
TOLERANCE = 1e-4
"""By default a problem is done when no part of its gradient is larger."""
_ENOUGH = 1e-4
"""Share of the promised decrease that a step must bring."""
_ROUNDING = 1e-7
"""Of a loss: what is smaller says nothing, for products are in float32."""
_SHORTEST = 2.0**-12


class Problems(Protocol):
    """P losses."""

    def __call__(self, unknowns_PX: Tensor, /) -> tuple[Tensor, Tensor]:
        """Return losses (P,), in float64, and gradients (P, X)."""

    def some(self, which: Tensor) -> Self:
        """Return some of the problems."""


def minimise(problems: Problems, start_PX: Tensor, tolerance_P: Tensor | None = None) -> Tensor:
    """Return where each loss is least.

    Parameters
    ----------
    problems : Problems
    start_PX : Tensor of shape (P, X), float32
    tolerance_P : Tensor of shape (P,), optional
        Instead of `TOLERANCE`, for each.

    Returns
    -------
    Tensor of shape (P, X)
        A problem that is not done after 200 steps, or whose loss is not finite, stays where it is.
    """
    result = start_PX.clone()
    which = torch.arange(len(start_PX), device=start_PX.device)
    at = start_PX.clone()
    loss, gradient = problems(at)
    tolerance = loss.new_full((len(at),), TOLERANCE) if tolerance_P is None else tolerance_P
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(MAX_STEPS):
        is_active = (gradient.abs().amax(dim=1) > tolerance) & loss.isfinite()
        if not is_active.all():
            result[which] = at
            if not is_active.any():
                return result
            problems = problems.some(is_active)
            which, at, loss, gradient = which[is_active], at[is_active], loss[is_active], gradient[is_active]
            tolerance = tolerance[is_active]
            steps = [(s[is_active], y[is_active], r[is_active]) for s, y, r in steps]
        direction = -_divided_by_curvature(gradient, steps)
        new_at, new_loss, new_gradient = _step(problems, at, loss, gradient, direction)
        moved, turned = new_at - at, new_gradient - gradient
        product = (moved * turned).sum(dim=1)
        is_curved = product > 1e-10 * (turned * turned).sum(dim=1)
        steps.append((moved, turned, torch.where(is_curved, 1 / product.clamp_min(1e-30), 0.0)))
        del steps[:-MEMORY]
        is_stuck = (moved == 0).all(dim=1)
        at, loss, gradient = new_at, new_loss, torch.where(is_stuck[:, None], 0.0, new_gradient)
    result[which] = at
    return result


def _step(
    problems: Problems, at: Tensor, loss: Tensor, gradient: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Go along the directions: by one, or half of it until it pays; not at all where nothing does."""
    slope = (gradient * direction).sum(dim=1).double()
    length = torch.ones(len(at), device=at.device)
    while True:
        new_at = at + length[:, None] * direction
        new_loss, new_gradient = problems(new_at)
        is_good = new_loss <= loss + _ENOUGH * length * slope + _ROUNDING * loss.abs()
        if is_good.all():
            return new_at, new_loss, new_gradient
        length = torch.where(is_good, length, torch.where(length > _SHORTEST, length / 2, 0.0))


def _divided_by_curvature(gradient: Tensor, steps: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """Return the gradient divided by what the last steps say of the curvature."""
    direction, shares = gradient.clone(), []
    for moved, turned, inverse in reversed(steps):
        share = inverse * (moved * direction).sum(dim=1)
        direction -= share[:, None] * turned
        shares.append(share)
    if steps:
        moved, turned, inverse = steps[-1]
        first = torch.where(inverse > 0, 1 / (inverse * (turned * turned).sum(dim=1)).clamp_min(1e-30), 1.0)
        direction *= first[:, None]
    for (moved, turned, inverse), share in zip(steps, reversed(shares), strict=True):
        direction += (share - inverse * (turned * direction).sum(dim=1))[:, None] * moved
    return direction
