"""Many classifiers as one: P probes that differ in learning rate, weight decay, seed and fold share every product.

Shape legend: B batch rows, V crops, D channels, H hidden, P probes, C classes.
The first layer of all P probes is one matrix product (B, D) x (D, P*C); a
product of the width of a single probe would leave most of a core idle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

HeadKind = Literal["linear", "mlp", "attentive"]


class Head(Protocol):
    """P classifiers with one forward pass."""

    parameters: list[Tensor]
    """Each with P as its first axis, so that one probe's share is contiguous."""

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""


def _initial(shape: tuple[int, ...], seeds: Sequence[int], scale: float, stream: int, device: torch.device) -> Tensor:
    """Draw (P, *shape) with one seed a probe, so that a probe starts alike whatever grid it is part of."""
    draws = {
        seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1000 + stream)) * scale
        for seed in set(seeds)
    }
    return torch.stack([draws[seed] for seed in seeds]).to(device).requires_grad_()


def _zeros(*shape: int, device: torch.device) -> Tensor:
    return torch.zeros(shape, device=device, requires_grad=True)


class LinearHead:
    """One linear layer a probe. Of (B, V, D) features it classifies every crop and averages the logits."""

    def __init__(self, dim: int, num_classes: int, seeds: Sequence[int], device: torch.device) -> None:
        # Near zero: the first logits say nothing.
        self.weight_PCD = _initial((num_classes, dim), seeds, 1e-3, 0, device)
        self.bias_PC = _zeros(len(seeds), num_classes, device=device)
        self.parameters = [self.weight_PCD, self.bias_PC]

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""
        if features.ndim == 3:  # linear, so the average of the logits is the logits of the average
            features = average(features, valid)
        return (features @ self.weight_PCD.flatten(0, 1).T).view(len(features), *self.bias_PC.shape) + self.bias_PC


class MlpHead:
    """One hidden layer with GELU a probe. Of (B, V, D) features it classifies every crop and averages the logits."""

    def __init__(self, dim: int, hidden: int, num_classes: int, seeds: Sequence[int], device: torch.device) -> None:
        # He's scale in the hidden layer, near zero in the last.
        self.first_PHD = _initial((hidden, dim), seeds, math.sqrt(2 / dim), 1, device)
        self.hidden_bias_PH = _zeros(len(seeds), hidden, device=device)
        self.second_PCH = _initial((num_classes, hidden), seeds, 1e-2 / math.sqrt(hidden), 2, device)
        self.bias_PC = _zeros(len(seeds), num_classes, device=device)
        self.parameters = [self.first_PHD, self.hidden_bias_PH, self.second_PCH, self.bias_PC]

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""
        rows = features.flatten(0, -2)
        hidden = (rows @ self.first_PHD.flatten(0, 1).T).view(len(rows), *self.hidden_bias_PH.shape)
        hidden = torch.nn.functional.gelu(hidden + self.hidden_bias_PH)
        logits = torch.einsum("bph,pch->bpc", hidden, self.second_PCH) + self.bias_PC
        if features.ndim == 3:
            logits = average(logits.reshape(*features.shape[:2], -1), valid).view(len(features), *self.bias_PC.shape)
        return logits


class AttentiveHead:
    """A learned query weighs the crops of a video (softmax), a linear layer classifies their weighted sum."""

    def __init__(self, dim: int, num_classes: int, seeds: Sequence[int], device: torch.device) -> None:
        # A query near zero weighs the crops alike: training starts from the mean.
        self.query_P1D = _initial((1, dim), seeds, 1e-3, 3, device)
        self.weight_PCD = _initial((num_classes, dim), seeds, 1e-3, 0, device)
        self.bias_PC = _zeros(len(seeds), num_classes, device=device)
        self.parameters = [self.query_P1D, self.weight_PCD, self.bias_PC]

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""
        if features.ndim == 2:
            features, valid = features[:, None], None
        scores = features @ self.query_P1D[:, 0].T / math.sqrt(features.shape[-1])
        if valid is not None:
            scores = scores.masked_fill(~valid[..., None], -torch.inf)
        attention = torch.softmax(scores, dim=1)
        pooled = torch.einsum("bvp,bvd->pbd", attention, features)
        return torch.einsum("pbd,pcd->bpc", pooled, self.weight_PCD) + self.bias_PC


def average(values_BVX: Tensor, valid_BV: Tensor | None) -> Tensor:
    """Return the mean over the valid crops (B, X)."""
    if valid_BV is None:
        return values_BVX.mean(dim=1)
    weights = valid_BV.to(values_BVX.dtype)
    return torch.einsum("bvx,bv->bx", values_BVX, weights / weights.sum(dim=1, keepdim=True).clamp_min(1))


class GridAdamW:
    """AdamW with a learning rate and a weight decay of its own for every probe of a head.

    torch's fused step runs on the share of the parameters that one point of the
    grid has (neighbouring probes); written out in tensor operations it took
    longer than the matrix products.
    """

    def __init__(self, head: Head, learning_rates: Sequence[float], weight_decays: Sequence[float]) -> None:
        self.head = head
        self.shares: list[tuple[Tensor, Tensor, slice]] = []
        self.rates: list[float] = []
        groups = []
        for rate, decay, probes in _runs(learning_rates, weight_decays):
            for parameter in head.parameters:
                share = parameter.detach()[probes]
                self.shares.append((share, parameter, probes))
                self.rates.append(rate)
                is_bias = parameter.ndim == 2
                groups.append({"params": [share], "lr": rate, "weight_decay": 0.0 if is_bias else decay})
        self.optimizer = torch.optim.AdamW(groups, fused=True)

    def step(self, schedule: float) -> None:
        """Apply and clear the gradients.

        Parameters
        ----------
        schedule : float
            Multiplies every learning rate.
        """
        for share, parameter, probes in self.shares:
            assert parameter.grad is not None
            share.grad = parameter.grad[probes]
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule
        self.optimizer.step()
        for parameter in self.head.parameters:
            parameter.grad = None


def _runs(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[tuple[float, float, slice]]:
    """Return stretches of neighbouring probes that share learning rate and weight decay."""
    runs, start = [], 0
    for (rate, decay), members in itertools.groupby(zip(learning_rates, weight_decays, strict=True)):
        stop = start + sum(1 for _ in members)
        runs.append((rate, decay, slice(start, stop)))
        start = stop
    return runs
