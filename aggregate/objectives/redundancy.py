"""VICReg and Barlow Twins between the set tokens of two sets of a video: agreement without negatives.

VICReg (ICLR 2022), of projections Z and Z' (n, d):

    l(Z, Z') = lambda s(Z, Z') + mu [v(Z) + v(Z')] + nu [c(Z) + c(Z')],   s = mean |z - z'|^2 over videos and outputs,
    v(Z) = 1/d sum_j max(0, 1 - sqrt(Var(z_j) + 1e-4)),   c(Z) = 1/d sum_{i != j} Cov(Z)_ij^2

with the halves of the released code: v is averaged over the two views. Barlow Twins (ICML 2021), of outputs
standardised over the batch:

    L = sum_i (1 - C_ii)^2 + lambda sum_{i != j} C_ij^2,   C = Z^T Z' / n
"""

from __future__ import annotations

import torch
from torch import Tensor

from aggregate.objectives.build import build_objective
from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult
from aggregate.objectives.set_contrast import project_pairs
from pipeline.recipe.objectives.redundancy import BarlowTwinsObjective, VicregObjective


def vicreg_terms(first_BP: Tensor, second_BP: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return invariance, variance and covariance terms; zeros with fewer than two videos."""
    x, y = first_BP.float(), second_BP.float()
    if len(x) < 2:
        nothing = x.sum() * 0.0 + y.sum() * 0.0
        return nothing, nothing, nothing
    invariance = (x - y).square().mean()
    variance, covariance = x.new_zeros(()), x.new_zeros(())
    for z in (x, y):
        centred = z - z.mean(0)
        variance = variance + torch.relu(1 - (centred.square().sum(0) / (len(z) - 1) + 1e-4).sqrt()).mean() / 2
        product = centred.mT @ centred / (len(z) - 1)
        covariance = covariance + (product.square().sum() - product.diagonal().square().sum()) / z.shape[1]
    return invariance, variance, covariance


def barlow_terms(first_BP: Tensor, second_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over the diagonal and off it; zeros with fewer than two videos."""
    x, y = first_BP.float(), second_BP.float()
    if len(x) < 2:
        nothing = x.sum() * 0.0 + y.sum() * 0.0
        return nothing, nothing
    x, y = ((z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt() for z in (x, y))
    product = x.mT @ y / len(x)
    on = (1 - product.diagonal()).square().sum()
    return on, product.square().sum() - product.diagonal().square().sum()


class Vicreg(Objective):
    """See the module; figures `vicreg_invariance`, `vicreg_variance`, `vicreg_covariance`."""

    def __init__(self, spec: VicregObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video."""
        z, _, _ = project_pairs(inputs.main)
        with torch.autocast(z.device.type, enabled=False):
            terms = vicreg_terms(z[:, 0], z[:, 1])
        weights = (self.spec.invariance, self.spec.variance, self.spec.covariance)
        loss = sum((w * t for w, t in zip(weights, terms, strict=True)), start=terms[0] * 0.0)
        names = ("invariance", "variance", "covariance")
        return ObjectiveResult(loss, {f"vicreg_{n}": t.detach() for n, t in zip(names, terms, strict=True)})


class BarlowTwins(Objective):
    """See the module; figures `barlow_on` and `barlow_off`."""

    def __init__(self, spec: BarlowTwinsObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video."""
        z, _, _ = project_pairs(inputs.main)
        with torch.autocast(z.device.type, enabled=False):
            on, off = barlow_terms(z[:, 0], z[:, 1])
        logs = {"barlow_on": on.detach(), "barlow_off": off.detach()}
        return ObjectiveResult(on + self.spec.off_diagonal * off, logs)


build_objective.register(VicregObjective, Vicreg)
build_objective.register(BarlowTwinsObjective, BarlowTwins)
