"""CARL's sequence contrast (Chen et al., CVPR 2022): time itself says how near two crops shall be.

For crop i of one set and the crops j of the other set of the same video, at times c:

    p_ij = softmax_j(-(c_i - c_j)^2 / (2 sigma^2)),   q_ij = softmax_j(z_i . z_j / tau),
    L = mean_i KL(p_i || q_i), both directions

No other video enters. sigma is given in mean distances between a video's crops, so that it fits any length.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aggregate.data.geometry import END_S, START_S
from aggregate.objectives.build import build_objective
from aggregate.objectives.contrast import unit
from aggregate.objectives.interface import Objective, ObjectiveInput, ObjectiveResult, TokensNeeded
from pipeline.recipe.objectives.carl import CarlObjective


def sequence_loss(
    first_BVP: Tensor,
    second_BVP: Tensor,
    times_B2V: Tensor,
    valid_B2V: Tensor,
    *,
    sigma_B: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Return the loss of one direction summed over valid crops, and their number.

    Parameters
    ----------
    first_BVP, second_BVP : Tensor
        Projections of both sets' crops, unit length.
    times_B2V : Tensor
        Mid times in seconds.
    valid_B2V : Tensor
        bool.
    sigma_B : Tensor
        Seconds, above 0.
    temperature : float
    """
    distance = (times_B2V[:, 0, :, None] - times_B2V[:, 1, None, :]) / sigma_B[:, None, None]
    absent = ~valid_B2V[:, 1, None, :]
    log_p = (-distance.square() / 2).masked_fill(absent, -1e9).log_softmax(-1)
    log_q = (first_BVP @ second_BVP.mT / temperature).masked_fill(absent, -1e9).log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).masked_fill(absent, 0.0).sum(-1)
    counts = valid_B2V[:, 0] & valid_B2V[:, 1].any(-1, keepdim=True)
    return (divergence * counts).sum(), counts.sum()


def mid_times(raw_geometry: Tensor) -> Tensor:
    """Return the middle of every crop in seconds."""
    return (raw_geometry[..., START_S] + raw_geometry[..., END_S]) / 2


def mean_spacing(times_BN: Tensor, valid_BN: Tensor) -> Tensor:
    """Return the mean distance between neighbouring crops of each video in seconds, (B,), above 0."""
    low = times_BN.masked_fill(~valid_BN, torch.inf).amin(1)
    high = times_BN.masked_fill(~valid_BN, -torch.inf).amax(1)
    spacing = (high - low) / (valid_BN.sum(1) - 1).clamp_min(1)
    return torch.where(torch.isfinite(spacing) & (spacing > 0), spacing, torch.ones_like(spacing))


class Carl(Objective):
    """See the module; figures `carl_loss` and `carl_accuracy`: how often the nearest in time is the most similar."""

    needs_tokens: TokensNeeded = "all"

    def __init__(self, spec: CarlObjective) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
        """Score the first two sets of every video, both ways."""
        encoded = inputs.main
        assert encoded.tokens is not None
        z = unit(encoded.model.dense_pred_head(encoded.tokens[:, :2]))
        valid = encoded.batch.valid[:, :2]
        times = mid_times(encoded.batch.raw_geometry[:, :2])
        sigma = self.spec.sigma * mean_spacing(times.flatten(1), valid.flatten(1))
        total, count = z.new_zeros(()), z.new_zeros(())
        with torch.autocast(z.device.type, enabled=False):
            for a, b in ((0, 1), (1, 0)):
                pair = [a, b]
                part, number = sequence_loss(
                    z[:, a], z[:, b], times[:, pair], valid[:, pair], sigma_B=sigma, temperature=self.spec.temperature
                )
                total, count = total + part, count + number
        loss = total / count.clamp_min(1)
        return ObjectiveResult(loss, {"carl_loss": loss.detach(), "carl_accuracy": self._accuracy(z, times, valid)})

    @staticmethod
    @torch.no_grad()
    def _accuracy(z: Tensor, times: Tensor, valid: Tensor) -> Tensor:
        absent = ~valid[:, 1, None, :]
        nearest = (times[:, 0, :, None] - times[:, 1, None, :]).abs().masked_fill(absent, math.inf).argmin(-1)
        found = (z[:, 0] @ z[:, 1].mT).masked_fill(absent, -math.inf).argmax(-1)
        counts = valid[:, 0] & valid[:, 1].any(-1, keepdim=True)
        return ((nearest == found) & counts).sum() / counts.sum().clamp_min(1)


build_objective.register(CarlObjective, Carl)
