"""Why a loss is not a number: the first cause that can be found, in words."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from aggregate.data.batch import SetBatch

MAX_NAMED = 5


def explain_non_finite(model: nn.Module, batch: SetBatch, logs: Mapping[str, Tensor]) -> str:
    """Return a sentence naming the cause of a non-finite loss or gradient.

    Looked for in the order in which one breaks the next: features, geometry,
    parameters, single losses, gradients.
    """
    broken = ~torch.isfinite(batch.features).all(-1) & batch.valid
    if bool(broken.any()):
        rows = sorted(set(batch.video_ids[broken.flatten(1).any(1)].tolist()))
        return (
            f"features of {int(broken.sum())} valid crops are not finite (rows {_some(rows)}); "
            "run `scale verify` on the store and extract those rows again"
        )
    if not bool(torch.isfinite(batch.geometry).all()):
        rows = sorted(set(batch.video_ids[~torch.isfinite(batch.geometry).flatten(1).all(1)].tolist()))
        return f"the geometry of rows {_some(rows)} is not finite; extract those rows again"
    named = [name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())]
    if named:
        return (
            f"parameters {_some(named)} are not finite: an earlier step diverged; "
            "lower learning_rate, or set clip_norm (1.0 is common)"
        )
    losses = [name for name, value in logs.items() if name.endswith("loss") and not bool(torch.isfinite(value))]
    largest = float(batch.features.abs().max())
    if losses:
        return (
            f"{', '.join(losses)} overflowed on finite inputs (largest feature {largest:.3g}); "
            "raise the temperature, or train with amp: off"
        )
    gradients = [
        name
        for name, value in model.named_parameters()
        if value.grad is not None and not bool(torch.isfinite(value.grad).all())
    ]
    return (
        f"gradients of {_some(gradients) or 'no parameter that is left'} are not finite "
        f"(largest feature {largest:.3g}); lower learning_rate, set clip_norm, or train with amp: off"
    )


def _some(items: list[int] | list[str]) -> str:
    shown = ", ".join(str(item) for item in items[:MAX_NAMED])
    return shown + (f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else "")
