"""How a backbone of a recipe is described and built: two functions, told by the section's class.

Modules that register here import networks inside their functions: plans only describe, and must stay cheap.
"""

from __future__ import annotations

from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from pipeline.errors import InvalidInputError
from pipeline.recipe.backbones import BackboneBase

if TYPE_CHECKING:
    from torch import nn


@singledispatch
def info_of(spec: BackboneBase, path: Path | None) -> BackboneInfo:
    """Describe a backbone without building it, but for where its weights come from.

    Parameters
    ----------
    spec : BackboneBase
    path : Path or None
        Its weights file, found and checked; None for random weights.

    Raises
    ------
    InvalidInputError
        If nobody registered how.
    """
    raise _unknown(spec, "info_of")


@singledispatch
def network_of(spec: BackboneBase, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Build the network (B, 3, T, H, W) float32 -> (B, D), in evaluation mode, with its weights.

    Raises
    ------
    InvalidInputError
        If nobody registered how.
    """
    raise _unknown(spec, "network_of")


def _unknown(spec: BackboneBase, function: str) -> InvalidInputError:
    return InvalidInputError(
        f"expected code for the backbone {type(spec).__name__}, found none; register a function with "
        f"extract.backbones.{function}.register, in the module that holds the class"
    )
