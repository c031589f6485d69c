"""Learning rate and parameter groups of the released code."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor


def rate_factor(step: int, total_steps: int, warmup_fraction: float = 0.05) -> float:
    """Return what the base learning rate is multiplied with at a step.

    Linear from 0 over the first `warmup_fraction` of all steps, then cosine to 0
    (released code, `warm_up_cosine_lr_scheduler`). The very first step has rate 0 when there is a warm-up.

    Parameters
    ----------
    step : int
        Optimiser steps done before this one, from 0.
    total_steps : int
    warmup_fraction : float
        In [0, 1).

    Returns
    -------
    float
        In [0, 1].
    """
    warmup = warmup_fraction * total_steps
    if step <= warmup and warmup > 0:
        return step / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / (total_steps - warmup))))


def parameter_groups(named: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, object]]:
    """Split parameters into those without and with weight decay.

    No decay for 1-d parameters, biases and names ending in `_token`.
    """
    plain: list[Tensor] = []
    decayed: list[Tensor] = []
    for name, parameter in named:
        if parameter.requires_grad:
            free = parameter.ndim == 1 or name.endswith((".bias", "_token"))
            (plain if free else decayed).append(parameter)
    return [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
