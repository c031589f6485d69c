"""The compiled form of a network, where compiling pays; the network itself where it fails."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Encoder = Callable[..., tuple[Tensor, Tensor]]

FEWEST_STEPS = 2000
"""What compiling takes, tens of seconds, is not won back by fewer."""
OPTIONS: dict[str, Any] = {"triton.coalesce_tiling_analysis": False}
"""The analysis does nothing for sizes that change, as those of masked crops do, and torch 2.11 fails in it on a GPU."""


def compile_wins(device: torch.device, total_steps: int) -> bool:
    """Whether compiling (tens of seconds) pays: on a GPU with Triton, over thousands of steps."""
    if device.type != "cuda" or total_steps < FEWEST_STEPS:
        return False
    return importlib.util.find_spec("triton") is not None


def compiled_encoder(model: nn.Module) -> Encoder:
    """Return the compiled form of a network; it is compiled at the first call, and runs as it is where that fails."""
    from torch._dynamo.exc import TorchDynamoException

    run: list[Encoder] = [torch.compile(model, dynamic=True, options=OPTIONS)]

    def encode(*inputs: Any) -> tuple[Tensor, Tensor]:
        if run[0] is model:
            return run[0](*inputs)
        try:
            return run[0](*inputs)
        except TorchDynamoException as err:
            reason = (str(err).strip() or type(err).__name__).splitlines()[0]
            log.warning("compiling failed, the training goes on without: %s", reason)
            run[0] = model
            return run[0](*inputs)

    return encode
