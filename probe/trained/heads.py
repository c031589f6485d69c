"""Many classifiers as one: P probes that differ in learning rate, weight decay, seed and fold share every product.

Shape legend: B batch rows, V crops, D channels, H hidden, P probes, C classes.
The first layer of all P probes is one matrix product (B, D) x (D, P*C); a
product of the width of a single probe would leave most of a core idle.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from pipeline.compute.seeds import seeded

HeadKind = Literal["linear", "mlp", "attentive"]


Slope = Callable[[Tensor], Tensor]
"""From logits (B, P, C), which it may overwrite, to the derivative of the loss by them."""


class Head(Protocol):
    """P classifiers with one forward pass."""

    parameters: list[Tensor]
    """Each with P as its first axis, so that one probe's share is contiguous."""

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""

    def learn(self, features: Tensor, valid: Tensor | None, slope: Slope) -> None:
        """Set `grad` of every parameter."""

    def part(self, probes: slice) -> Head:
        """Return some neighbouring probes; they share memory with these, gradients included."""


class _ByAutograd:
    """Gradients by torch's autograd."""

    parameters: list[Tensor]

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        raise NotImplementedError

    def learn(self, features: Tensor, valid: Tensor | None, slope: Slope) -> None:
        """Set `grad` of every parameter."""
        for parameter in self.parameters:
            parameter.grad = None
        logits = self(features, valid)
        logits.backward(slope(logits.detach().clone()))

    def part(self, probes: slice) -> Head:
        """Return these very probes; no others were ever needed."""
        assert probes == slice(0, len(self.parameters[0])), probes
        return self


def _initial(shape: tuple[int, ...], seeds: Sequence[int], scale: float, stream: int, device: torch.device) -> Tensor:
    """Draw (P, *shape) with one seed a probe, so that a probe starts alike whatever grid it is part of."""
    draws = {seed: torch.randn(shape, generator=seeded(seed * 1000 + stream)) * scale for seed in set(seeds)}
    return torch.stack([draws[seed] for seed in seeds]).to(device).requires_grad_()


def _zeros(*shape: int, device: torch.device) -> Tensor:
    return torch.zeros(shape, device=device, requires_grad=True)


class LinearHead:
    """One linear layer a probe. Of (B, V, D) features it classifies every crop and averages the logits.

    Its gradient is written out: two products into memory that is kept. Autograd
    took new memory for every step, which cost a small set as much as the products.
    """

    def __init__(self, dim: int, num_classes: int, seeds: Sequence[int], device: torch.device) -> None:
        # Near zero: the first logits say nothing.
        self._hold(
            _initial((num_classes, dim), seeds, 1e-3, 0, device).detach(),
            torch.zeros(len(seeds), num_classes, device=device),
        )
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def _hold(self, weight_PCD: Tensor, bias_PC: Tensor) -> None:
        self.weight_PCD, self.bias_PC = weight_PCD, bias_PC
        self.parameters = [weight_PCD, bias_PC]

    def __call__(self, features: Tensor, valid: Tensor | None) -> Tensor:
        """Return logits (B, P, C)."""
        if features.ndim == 3:  # linear, so the average of the logits is the logits of the average
            features = average(features, valid)
        logits = torch.addmm(self.bias_PC.flatten(), features, self.weight_PCD.flatten(0, 1).T)
        return logits.view(len(features), *self.bias_PC.shape)

    def learn(self, features: Tensor, valid: Tensor | None, slope: Slope) -> None:
        """Set `grad` of every parameter."""
        if features.ndim == 3:
            features = average(features, valid)
        slopes = slope(self(features, None)).flatten(1)
        weight, bias = self.weight_PCD.grad, self.bias_PC.grad
        assert weight is not None
        assert bias is not None
        torch.mm(slopes.T, features, out=weight.view(-1, weight.shape[2]))
        torch.sum(slopes, dim=0, out=bias.view(-1))

    def part(self, probes: slice) -> LinearHead:
        """Return some neighbouring probes; they share memory with these, gradients included."""
        some = object.__new__(LinearHead)
        some._hold(self.weight_PCD[probes], self.bias_PC[probes])
        for mine, theirs in zip(self.parameters, some.parameters, strict=True):
            assert mine.grad is not None
            theirs.grad = mine.grad[probes]
        return some


class MlpHead(_ByAutograd):
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


class AttentiveHead(_ByAutograd):
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


@dataclass(frozen=True)
class _Shares:
    """What one call of the optimiser's kernel changes: everything with one learning rate and weight decay."""

    rate: float
    decay: float
    at: list[tuple[int, slice]] = field(default_factory=list)
    """(parameter, probes)."""
    values: list[Tensor] = field(default_factory=list)
    first_moments: list[Tensor] = field(default_factory=list)
    second_moments: list[Tensor] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class GridAdamW:
    """AdamW with a learning rate and a weight decay of its own for every probe of a head.

    Calls the kernel of ``torch.optim.AdamW(fused=True)`` once for every point of
    the grid. The class around that kernel spends longer on finding out what to
    call than the kernel needs for one point of a small set.
    """

    def __init__(self, head: Head, learning_rates: Sequence[float], weight_decays: Sequence[float]) -> None:
        self.head = head
        self.num_steps = torch.zeros((), device=head.parameters[0].device)
        self.shares: dict[tuple[float, float], _Shares] = {}
        self.gradients: list[Tensor] = []
        for i, parameter in enumerate(head.parameters):
            first, second = torch.zeros_like(parameter), torch.zeros_like(parameter)
            for rate, decay, probes in _runs(learning_rates, weight_decays):
                key = (rate, 0.0 if parameter.ndim == 2 else decay)  # biases are not decayed
                share = self.shares.setdefault(key, _Shares(*key))
                share.at.append((i, probes))
                share.values.append(parameter.detach()[probes])
                share.first_moments.append(first[probes])
                share.second_moments.append(second[probes])

    def step(self, schedule: float) -> None:
        """Apply the gradients.

        Parameters
        ----------
        schedule : float
            Multiplies every learning rate.
        """
        self.num_steps += 1
        gradients = [parameter.grad for parameter in self.head.parameters if parameter.grad is not None]
        if [*map(id, gradients)] != [*map(id, self.gradients)]:  # a linear head keeps its own: found out once
            self.gradients = gradients
            for share in self.shares.values():
                share.gradients[:] = [gradients[i][probes] for i, probes in share.at]
        for share in self.shares.values():
            torch._fused_adamw_(
                share.values,
                share.gradients,
                share.first_moments,
                share.second_moments,
                [],
                [self.num_steps] * len(share.at),
                lr=share.rate * schedule,
                beta1=0.9,
                beta2=0.999,
                weight_decay=share.decay,
                eps=1e-8,
                amsgrad=False,
                maximize=False,
            )


def _runs(learning_rates: Sequence[float], weight_decays: Sequence[float]) -> list[tuple[float, float, slice]]:
    """Return stretches of neighbouring probes that share learning rate and weight decay."""
    runs, start = [], 0
    for (rate, decay), members in itertools.groupby(zip(learning_rates, weight_decays, strict=True)):
        stop = start + sum(1 for _ in members)
        runs.append((rate, decay, slice(start, stop)))
        start = stop
    return runs
