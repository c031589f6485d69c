"""Temporal group normalisation (Cho et al., arXiv 2003.02692) over a set: each part of a video by its own statistics.

The crops of a set are put into G groups by their time; a token is normalised by mean and variance over all channels of
all tokens of its group, and scaled and moved by what the group has learned. The set token is a group of its own, which
makes it LayerNorm there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-5


class TemporalGroupNorm(nn.Module):
    """Normalise (R, T, d) tokens group by group.

    Parameters
    ----------
    dim : int
    num_groups : int
        Of crops; the set token has one more.
    """

    def __init__(self, dim: int, num_groups: int) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.weight = nn.Parameter(torch.ones(num_groups + 1, dim))
        self.bias = nn.Parameter(torch.zeros(num_groups + 1, dim))

    def forward(self, x_RTd: Tensor, group_RT: Tensor) -> Tensor:
        """Return normalised tokens.

        Parameters
        ----------
        x_RTd : Tensor
        group_RT : Tensor
            int64 in 0..G; -1: counts in no group, and comes back without meaning.
        """
        member = functional.one_hot(group_RT.clamp_min(0), self.num_groups + 1).float()
        member = torch.where(group_RT[..., None] >= 0, member, 0.0)
        count = member.sum(1).clamp_min(1)  # (R, G + 1)
        x = x_RTd.float()
        mean = torch.einsum("rt,rtg->rg", x.mean(-1), member) / count
        centred = x - torch.einsum("rg,rtg->rt", mean, member)[..., None]
        variance = torch.einsum("rt,rtg->rg", centred.square().mean(-1), member) / count
        scale = torch.einsum("rg,rtg->rt", torch.rsqrt(variance + EPSILON), member)
        own = group_RT.clamp_min(0)
        return (centred * scale[..., None] * self.weight[own] + self.bias[own]).to(x_RTd.dtype)


def time_groups(start_RV: Tensor, end_RV: Tensor, valid_RV: Tensor | None, num_groups: int) -> Tensor:
    """Return the group of every token, (R, 1 + V) int64: the set token's own, then the crops' by time in their set."""
    middle = (start_RV + end_RV) / 2
    seen = torch.ones_like(middle, dtype=torch.bool) if valid_RV is None else valid_RV
    first = torch.where(seen, middle, torch.inf).amin(1, keepdim=True)
    last = torch.where(seen, middle, -torch.inf).amax(1, keepdim=True)
    share = (middle - first) / (last - first).clamp_min(1e-9)
    group = (share * num_groups).nan_to_num(0.0).clamp(0, num_groups - 1).long()
    group = torch.where(seen, group, -1)
    return functional.pad(group, (1, 0), value=num_groups)
