"""Parameter groups of the released code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


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
