"""A network run by OpenVINO, where that is installed: the next factor on a CPU.

Measured on 2 cores of an AMD EPYC (AVX2), one thread: x3d_xs 31 crops/s where
the tuned network runs 21, features equal to 1e-6. Everything is float32:
OpenVINO would choose bfloat16 by itself on machines that have it.

OpenVINO tells its makers of every import and conversion by way of the package
``openvino_telemetry``. Here that package is never imported, so nothing is sent.
"""

from __future__ import annotations

import importlib
import importlib.util
import queue
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

Run = Callable[["torch.Tensor"], "torch.Tensor"]

INSTALL = "pip install 'scale-pipeline[openvino]'"
_TELEMETRY = "openvino_telemetry"
_importing = threading.Lock()


def is_installed() -> bool:
    """Whether OpenVINO could be imported; nothing is imported to find out."""
    with suppress(ValueError):  # of a module that was put in its place without a description
        return importlib.util.find_spec("openvino") is not None
    return "openvino" in sys.modules


def import_openvino() -> ModuleType:
    """Import OpenVINO without what reports to its makers.

    Raises
    ------
    ImportError
        If it is not installed, or does not fit this machine.
    """
    with _importing:
        if "openvino" in sys.modules or _TELEMETRY in sys.modules:
            return importlib.import_module("openvino")
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # importing it fails, and a stub of OpenVINO's own serves
        try:
            return importlib.import_module("openvino")
        finally:
            del sys.modules[_TELEMETRY]


def converted(network: nn.Module, clips: torch.Tensor, num_streams: int = 1) -> Run:
    """Return a form of a network that OpenVINO runs: any number of crops at the frames and size of `clips`.

    The network itself sees as many crops at a time as `clips` has: what is always of one size OpenVINO runs faster
    (x3d_xs by 7 %, fewer crops being as fast as more), and a crop's features are the same to the last bit in whatever
    company it comes.

    Parameters
    ----------
    network : nn.Module
        As it was built: what :mod:`extract.backbones.tuning` put into it cannot be converted. In evaluation mode, on
        the CPU; of no use to others afterwards.
    clips : Tensor of shape (B, 3, T, H, W), float32
        An example, and how many crops go through it at a time.
    num_streams : int
        How many calls may compute at once, each with one core; more wait.

    Returns
    -------
    callable
        Several threads may call it.

    Raises
    ------
    Exception
        Whatever torch or OpenVINO raises for a network that one of them cannot take.
    """
    openvino = import_openvino()
    model = _read(network, clips)
    model.reshape(list(clips.shape))
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": num_streams,
            "INFERENCE_NUM_THREADS": num_streams,
            "ENABLE_CPU_PINNING": False,  # two workers of one machine would share the same cores
        },
    )
    return _taking_turns([compiled.create_infer_request() for _ in range(num_streams)], len(clips))


def _read(network: nn.Module, clips: torch.Tensor) -> Any:
    """Return OpenVINO's model of a network."""
    import torch

    for module in network.modules():
        if isinstance(module, torch.fx.GraphModule):  # it looks at shapes, which no trace can hold
            module._forward_pre_hooks.clear()
    with warnings.catch_warnings(), torch.no_grad():
        # that sizes become constants is wanted, and whether batches of other sizes are right is tried afterwards
        warnings.simplefilter("ignore")
        from openvino.frontend import FrontEndManager
        from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

        traced = torch.jit.trace(network, clips, strict=False, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)
        front = FrontEndManager().load_by_framework("pytorch")
        return front.convert(front.load(decoder))


def _taking_turns(requests: list[Any], num_crops: int) -> Run:
    """Return a function that infers so many crops at a time by whichever request is free."""
    import torch

    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for request in requests:
        free.put(request)

    def infer(clips: torch.Tensor) -> torch.Tensor:
        missing = num_crops - len(clips)
        if missing:
            clips = torch.cat([clips, clips.new_zeros(missing, *clips.shape[1:])])
        request = free.get()
        try:
            # its own memory is used again by the next call: the features are copied out
            (features,) = request.infer([clips.contiguous().numpy()], share_inputs=True, share_outputs=False).values()
            return torch.from_numpy(features)[: num_crops - missing]
        finally:
            free.put(request)

    def run(clips: torch.Tensor) -> torch.Tensor:
        return torch.cat([infer(part) for part in clips.split(num_crops)])

    return run
