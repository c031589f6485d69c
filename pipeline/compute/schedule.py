"""The learning rate over a training: up from zero along a line, down to zero along a cosine."""

from __future__ import annotations

import math


def warm_up_cosine(step: int, total_steps: int, warmup_steps: float) -> float:
    """Return what the base learning rate is multiplied with at a step, in [0, 1].

    As the released code's `warm_up_cosine_lr_scheduler`: at step 0 the factor is 0 when there is a warm-up.

    Parameters
    ----------
    step : int
        Counted from 0 or from 1, as the caller's method has it.
    total_steps : int
        More than `warmup_steps`, or no step comes after them.
    warmup_steps : float
    """
    if step <= warmup_steps and warmup_steps > 0:
        return step / warmup_steps
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))))
