"""Programs that hear."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extract.backbones.interface import BackboneInfo
from extract.backbones.kinds.registry import info_of, network_of
from extract.sound.spectrogram import SoundSpec
from pipeline.errors import ShapeMismatchError
from pipeline.recipe.backbones.audio import AudioBackbone

if TYPE_CHECKING:
    from torch import nn


@info_of.register(AudioBackbone)
def describe(spec: AudioBackbone, path: Path | None) -> BackboneInfo:
    """Describe what the program's file says of itself."""
    from extract.backbones.exported import FLOAT32, MODEL
    from extract.backbones.program_archive import read_signature

    assert path is not None
    signature = read_signature(path)
    wanted = (1, spec.num_mels, spec.num_steps)
    found = signature.input_shape[1:]
    fits = len(found) == 3 and all(a in (b, None) for a, b in zip(found, wanted, strict=True))
    if not fits or signature.dtype != FLOAT32 or len(signature.output_shape) != 2:
        raise ShapeMismatchError(
            f"{path.name}: expected a program that takes (B, {', '.join(map(str, wanted))}) float32 and gives (B, D), "
            f"found one that takes {signature.input_shape} and gives {signature.output_shape}; set num_mels and "
            "num_steps of the backbone"
        )
    return BackboneInfo(
        name=path.stem, kind="audio", model=MODEL, readout="output", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
        dim=signature.output_shape[1], input="sound",
        sound=SoundSpec(spec.sample_rate_hz, spec.num_mels, spec.num_steps, spec.window_ms),
    )  # fmt: skip


@network_of.register(AudioBackbone)
def build(spec: AudioBackbone, info: BackboneInfo, path: Path | None) -> nn.Module:
    """Load the program."""
    from extract.backbones.exported import load_program

    assert path is not None
    return load_program(path)
