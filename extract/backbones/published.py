"""Weights that others published, by name: where each lies, and the backbone section it is for.

Addresses of pytorchvideo's zoo are those of its own hub modules (a test holds them together), PySlowFast's those of its
README. Hugging Face repositories are read through their plain file addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

_ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"
_SLOWFAST = "https://dl.fbaipublicfiles.com/pyslowfast/videomoco_models"
_HUB = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class Published:
    """One published weights file."""

    name: str
    address: str
    backbone: str
    """Kind and model of the recipe's section."""
    source: str

    @property
    def file(self) -> str:
        """Name of the file in the cache: the name, with the address's ending."""
        return f"{self.name}.{self.address.rpartition('.')[2]}"


def _zoo(model: str, file: str) -> Published:
    return Published(model, f"{_ZOO}/{file}.pyth", f"kind: pytorchvideo, model: {model}", "pytorchvideo zoo")


def _ssl(method: str, frames: str, rho: int) -> Published:
    name = f"slow_r50_{method.lower()}_{frames}_rho{rho}"
    file = f"{_SLOWFAST}/{method}_SlowR50_{frames}_T{rho}_epoch_00200.pyth"
    return Published(name, file, "kind: pytorchvideo, model: slow_r50", "PySlowFast, self-supervised on Kinetics-400")


def _hub(name: str, repository: str) -> Published:
    address = f"{_HUB}/{repository}/resolve/main/model.safetensors"
    return Published(name, address, "kind: videomae", f"Hugging Face, {repository}")


PUBLISHED: dict[str, Published] = {
    one.name: one
    for one in (
        _zoo("slow_r50", "SLOW_8x8_R50"),
        _zoo("c2d_r50", "C2D_8x8_R50"),
        _zoo("i3d_r50", "I3D_8x8_R50"),
        _zoo("slowfast_r50", "SLOWFAST_8x8_R50"),
        _zoo("x3d_xs", "X3D_XS"),
        _zoo("x3d_s", "X3D_S"),
        _zoo("x3d_m", "X3D_M"),
        _zoo("x3d_l", "X3D_L"),
        _zoo("r2plus1d_r50", "R2PLUS1D_16x4_R50"),
        _zoo("csn_r101", "CSN_32x2_R101"),
        _ssl("MoCo", "8x8", 2),
        _ssl("BYOL", "8x8", 2),
        _ssl("SimCLR", "8x8", 2),
        _ssl("SwAV", "8x8", 2),
        _ssl("MoCo", "8x8", 4),
        _ssl("BYOL", "8x8", 4),
        _ssl("BYOL", "16x4", 4),
        _hub("videomae_base", "MCG-NJU/videomae-base"),
    )
}
