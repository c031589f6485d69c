"""Seeds: any integers folded into one, and torch's generators seeded inside a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def keyed(*parts: int) -> int:
    """Fold integers into one seed of 63 bits (splitmix64), so that (0, 1) and (1, 0) differ."""
    mixed = 0
    for part in parts:
        mixed = (mixed + part + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed & 0x7FFFFFFFFFFFFFFF


def seeded(seed: int) -> torch.Generator:
    """Return a generator of its own on the CPU: the same numbers whatever the device."""
    import torch

    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def own_random(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's generators of the CPU and of one GPU inside the block, and leave them as they were.

    ``torch.manual_seed`` would reset those of all other devices too.
    """
    import torch

    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.random.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
