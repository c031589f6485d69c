"""The compiled form of a network for who asks for it; the network itself where compiling fails.

Nobody gets it unasked: on an H100 (torch 2.11, B = 512, bfloat16) a compiled step took 13.7 ms, an eager one 11.4.
Sizes change with every mask, and what the host spends on that is more than the device saves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

Encoder = Callable[..., tuple[Tensor, Tensor]]

OPTIONS: dict[str, Any] = {"triton.coalesce_tiling_analysis": False}
"""The analysis does nothing for sizes that change, as those of masked crops do, and torch 2.11 fails in it on a GPU."""


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
