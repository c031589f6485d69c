"""Which device a run computes on."""

from __future__ import annotations

import torch

from pipeline.errors import InvalidInputError


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that a name means; ``auto`` takes a GPU when there is one.

    Raises
    ------
    InvalidInputError
        If the name is none of auto, cpu, cuda and cuda:N, or the device is not there.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if num_gpus else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (":" in name and not (kind == "cuda" and number.isdecimal() and len(number) < 4)):
        raise InvalidInputError(f"expected a device auto, cpu, cuda or cuda:N, found {name!r}")
    if kind == "cuda" and int(number or 0) >= num_gpus:
        raise InvalidInputError(f"expected the device {name}, found {num_gpus} CUDA devices; use --device cpu")
    return torch.device(name)
