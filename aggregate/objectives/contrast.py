"""The one softmax that all contrastive objectives share.

Legend: M = queries, N = keys, P = projection channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1, in float32 whatever autocast does (bfloat16 has three digits)."""
    return functional.normalize(x.float(), dim=-1)


def info_nce(
    queries_MP: Tensor,
    keys_NP: Tensor,
    positive_M: Tensor,
    *,
    temperature: float,
    excluded_MN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each query's positive among all keys that are not excluded.

    ``mean_i -log softmax_j(q_i . k_j / temperature)[positive_i]``

    Parameters
    ----------
    queries_MP, keys_NP : Tensor
        (M, P) and (N, P) float32 of unit length.
    positive_M : Tensor
        (M,) int64, row of `keys_NP`.
    temperature : float
    excluded_MN : Tensor, optional
        (M, N) bool: keys that are no negatives for this query. The positive always counts.

    Returns
    -------
    loss : Tensor
        Scalar. Zero (with zero gradient) without queries; a query without negatives adds zero.
    accuracy : Tensor
        Scalar in 0..1, no gradient: share of queries whose positive scores highest; NaN without queries.
    """
    if queries_MP.shape[0] == 0:
        return queries_MP.sum() * 0.0 + keys_NP.sum() * 0.0, queries_MP.new_full((), torch.nan)
    with torch.autocast(queries_MP.device.type, enabled=False):
        logits_MN = queries_MP @ keys_NP.mT / temperature
        if excluded_MN is not None:
            excluded_MN = excluded_MN.scatter(1, positive_M[:, None], False)
            logits_MN = logits_MN.masked_fill(excluded_MN, -torch.inf)
        loss = functional.cross_entropy(logits_MN, positive_M)
    accuracy = (logits_MN.detach().argmax(1) == positive_M).float().mean()
    return loss, accuracy
