"""Several processes that train one network: every one encodes its share of a batch, all score the whole of it.

Features are gathered with their gradients, so that an objective sees the global batch. What comes back to a process is
`n` times the gradient of its share, and what heads get is the whole gradient: the mean over the processes is right for
both.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_gather

from pipeline.errors import InvalidInputError


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    rank: int = 0
    number: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it speaks and writes for all."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        """(rank, number)."""
        return self.rank, self.number

    def prepare(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return the model with batch norms that share their statistics, where several GPUs train it."""
        if self.number == 1 or device.type != "cuda":
            return model
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)

    def gather(self, features: Tensor) -> Tensor:
        """Return the features of all processes, in order, with gradient."""
        if self.number == 1:
            return features
        return torch.cat(cast("tuple[Tensor, ...]", all_gather(features.contiguous())))

    def gather_plain(self, tensor: Tensor) -> Tensor:
        """Return a CPU tensor of all processes, in order, without gradient; shares may differ in length."""
        if self.number == 1:
            return tensor
        parts: list[Tensor | None] = [None] * self.number
        distributed.all_gather_object(parts, tensor)
        return torch.cat([part for part in parts if part is not None])

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Average the gradients over the processes, all in one message.

        Not by DistributedDataParallel: it waits for ever for a stream that an objective holds still, and its hooks see
        parameters twice that are used outside of the wrapped module.
        """
        if self.number == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.number
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def wait(self) -> None:
        """Wait for all processes."""
        if self.number > 1:
            distributed.barrier()


ALONE = Processes()


def join_processes(device: torch.device) -> Processes:
    """Join the processes that `torchrun` started; alone where nobody did.

    Raises
    ------
    InvalidInputError
        If the variables that torchrun sets are not what they should be.
    """
    number, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    if not (number.isdecimal() and rank.isdecimal()):
        raise InvalidInputError(f"expected whole numbers in WORLD_SIZE and RANK, found {number!r} and {rank!r}")
    if int(number) <= 1:
        return Processes()
    if not distributed.is_initialized():
        distributed.init_process_group(backend_for(device))
    return Processes(int(rank), int(number))


def backend_for(device: torch.device) -> str:
    """Return what carries messages: NCCL, where each process of this machine has a GPU of its own, which it insists on.

    Gloo carries them through the host, between processes that share a GPU, too.
    """
    number = os.environ.get("LOCAL_WORLD_SIZE", "1")
    fits = number.isdecimal() and int(number) <= torch.cuda.device_count()
    return "nccl" if device.type == "cuda" and fits else "gloo"


def leave_processes() -> None:
    """Leave them, if there were several."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
