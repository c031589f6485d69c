"""Exported programs (``torch.export``, .pt2) as backbones."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extract.backbones.interface import KINETICS_MEAN, KINETICS_STD, BackboneInfo
from extract.backbones.program_archive import checked_copy, read_signature, read_targets
from pipeline.errors import PipelineError, ShapeMismatchError, WeightsError
from pipeline.recipe import ExportedBackbone

if TYPE_CHECKING:
    from torch import nn

FLOAT32 = 7
"""Its code in torch's export schema."""
MODEL = "torch.export program"
_loading = threading.Lock()
"""torch keeps one reader a process, and fails where a second thread reads at the same time."""


def exported_info(spec: ExportedBackbone, path: Path) -> BackboneInfo:
    """Describe an exported program from its signature; torch is not needed.

    Raises
    ------
    WeightsError
        If the file is no exported program.
    ShapeMismatchError
        If the program does not take what the recipe says.
    """
    signature = read_signature(path)
    axes = "(B, 3, T, H, W)" if spec.input == "crop" else "(B, 3, H, W)"
    shape = signature.input_shape
    if len(shape) != axes.count(",") + 1 or shape[1] not in (3, None):
        other = "frame" if spec.input == "crop" else "crop"
        raise ShapeMismatchError(
            f"{path.name}: expected a program that takes {axes} for `input: {spec.input}`, found one that takes "
            f"{_readable(shape)}; try `input: {other}` or export it with that shape"
        )
    if signature.dtype != FLOAT32:
        raise ShapeMismatchError(f"{path.name}: expected a program that takes float32, found another dtype")
    if len(signature.output_shape) != 2:
        raise ShapeMismatchError(
            f"{path.name}: expected one vector a crop or frame, (B, D), found {_readable(signature.output_shape)}; "
            "export the network with pooled features as its output"
        )
    frames = shape[2] if spec.input == "crop" else None
    height, width = shape[-2:]
    if height != width and None not in (height, width):
        raise ShapeMismatchError(f"{path.name}: expected a square input, found {height} x {width}")
    return BackboneInfo(
        name=path.stem,
        kind="exported",
        model=MODEL,
        readout="output" if spec.input == "crop" else "output, mean over frames",
        mean=spec.mean or KINETICS_MEAN,
        std=spec.std or KINETICS_STD,
        dim=signature.output_shape[1],
        num_frames=_fixed("num_frames", frames, spec.num_frames, path),
        size_px=_fixed("size_px", height, spec.size_px, path),
        input=spec.input,
    )


def build_exported(info: BackboneInfo, path: Path) -> nn.Module:
    """Load a program as a module: (B, 3, T, H, W) -> (B, D), any B.

    Raises
    ------
    WeightsError
        If it is damaged, or needs unpickling or code that is not a tensor operator.
    """
    from extract.backbones.layers import MeanOverFrames

    network = load_program(path)
    return MeanOverFrames(network) if info.input == "frame" else network


def load_program(path: Path) -> nn.Module:
    """Load a program that takes one tensor and gives one, for any number of samples; raises as `build_exported`."""
    import torch

    from extract.backbones.layers import LimitedBatch

    fewest, most = read_signature(path).batch_range
    _check_operators(path)
    try:
        with _loading:
            module = torch.export.load(checked_copy(path)).module()
    except Exception as err:  # torch meets an edited graph with any error it happens to run into
        if isinstance(err, PipelineError):
            raise
        first_line = (str(err).strip() or type(err).__name__).splitlines()[0]
        raise WeightsError(
            f"expected a torch.export program at {path} that torch {torch.__version__} can read, it cannot: "
            f"{first_line}; export it again with this torch"
        ) from err
    return LimitedBatch(module, fewest, most)


def _check_operators(path: Path) -> None:
    """Refuse names below ``torch.ops`` that are no operators: torch finds methods and fields of its objects so."""
    import torch

    for target in read_targets(path):
        if not target.startswith(("torch.ops.aten.", "torch.ops.prims.")):
            continue
        found: Any = torch
        for part in target.split(".")[1:]:
            found = getattr(found, part, None)
        if not isinstance(found, torch._ops.OpOverload):
            raise WeightsError(f"{path}: expected an operator of torch {torch.__version__}, found {target}")


def _fixed(what: str, of_program: int | None, of_recipe: int | None, path: Path) -> int | None:
    if of_program is not None and of_recipe is not None and of_program != of_recipe:
        raise ShapeMismatchError(
            f"{path.name}: expected {what} {of_program}, which the program is fixed to, found {of_recipe} in the recipe"
        )
    return of_program if of_program is not None else of_recipe


def _readable(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
