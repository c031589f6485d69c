"""The pytorchvideo zoo: networks built here, weights from a local file or a seed, heads taken off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extract.backbones.interface import KINETICS_MEAN, KINETICS_STD, BackboneInfo
from pipeline.errors import MissingDependencyError
from pipeline.recipe import PytorchVideoBackbone

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True)
class ZooModel:
    """What must be known of a zoo network before it is built.

    Attributes
    ----------
    dim : int
        Channels of its pooled features: what its classifier would see.
    native_frames, native_size_px : int
        Of the input it was trained with.
    fixed : bool
        True where position embeddings tie it to that size.
    frames_multiple : int
        Number that must divide the number of frames.
    per_frame : bool
        An image network, averaged over frames.
    readout : str
        For the fingerprint.
    compile_gain : float
        Measured on 2 cores.
    """

    dim: int
    native_frames: int
    native_size_px: int
    fixed: bool = False
    frames_multiple: int = 1
    per_frame: bool = False
    readout: str = "mean over space and time before the classifier"
    compile_gain: float = 1.05


_MVIT_READOUT = "class token after the last norm"

ZOO: dict[str, ZooModel] = {
    "slow_r50": ZooModel(2048, 8, 224),
    "c2d_r50": ZooModel(2048, 8, 224),
    "i3d_r50": ZooModel(2048, 8, 224),
    "slowfast_r50": ZooModel(2304, 32, 224, frames_multiple=4),
    "x3d_xs": ZooModel(2048, 4, 160),
    "x3d_s": ZooModel(2048, 13, 160, compile_gain=1.0),
    "x3d_m": ZooModel(2048, 16, 224, compile_gain=1.0),
    "x3d_l": ZooModel(2048, 16, 312, compile_gain=1.0),
    "r2plus1d_r50": ZooModel(2048, 16, 224, compile_gain=1.3),
    "csn_r101": ZooModel(2048, 32, 224),
    "mvit_base_16": ZooModel(768, 1, 224, fixed=True, per_frame=True, readout=_MVIT_READOUT + ", mean over frames"),
    "mvit_base_16x4": ZooModel(768, 16, 224, fixed=True, readout=_MVIT_READOUT, compile_gain=1.3),
    "mvit_base_32x3": ZooModel(768, 32, 224, fixed=True, readout=_MVIT_READOUT, compile_gain=1.3),
}


def zoo_info(spec: PytorchVideoBackbone) -> BackboneInfo:
    """Describe a zoo backbone; the weights are filled in by the caller."""
    model = ZOO[spec.model]
    native_frames = None if model.per_frame or not model.fixed else model.native_frames
    return BackboneInfo(
        name=spec.model,
        kind="pytorchvideo",
        model=spec.model,
        readout=model.readout,
        mean=spec.mean or KINETICS_MEAN,
        std=spec.std or KINETICS_STD,
        dim=model.dim,
        num_frames=spec.num_frames or native_frames,
        size_px=spec.size_px or (model.native_size_px if model.fixed else None),
        input="frame" if model.per_frame else "crop",
        frames_multiple=model.frames_multiple,
        compile_gain=model.compile_gain,
    )


def build_zoo_network(info: BackboneInfo) -> nn.Module:
    """Build a zoo network with its classification head, weights as its builder draws them.

    Raises
    ------
    MissingDependencyError
        If pytorchvideo is not installed.
    """
    from extract.backbones.torchvision_standin import import_pytorchvideo_models

    try:
        hub = import_pytorchvideo_models().hub
    except ImportError as err:
        raise MissingDependencyError(
            f"backbone {info.name} needs pytorchvideo, which cannot be imported ({err}); pip install pytorchvideo"
        ) from err
    arguments: dict[str, Any] = {}
    if ZOO[info.model].fixed:
        arguments["spatial_size"] = info.size_px
        arguments["temporal_size"] = 1 if ZOO[info.model].per_frame else info.num_frames
    builder: Callable[..., nn.Module] = getattr(hub, info.model)
    return builder(pretrained=False, **arguments).eval()


def headless(network: Any, info: BackboneInfo) -> nn.Module:
    """Take the classification head off: (B, 3, T, H, W) -> (B, D), what the classifier would see.

    The pooling kernels of pytorchvideo's heads have the native size; a mean
    over all positions equals them there and also fits other sizes.
    """
    from torch import nn

    from extract.backbones.layers import MeanOverFrames, MeanOverSpaceTime

    if info.model.startswith("mvit"):
        from extract.backbones.zoo_layers import ClassToken

        network.head = ClassToken()
        return MeanOverFrames(network) if info.input == "frame" else network
    blocks = list(network.blocks)
    if info.model == "slowfast_r50":
        from extract.backbones.zoo_layers import SlowFastFeatures

        return SlowFastFeatures(nn.ModuleList(blocks[:-2]))
    if info.model.startswith("x3d"):
        from extract.backbones.zoo_layers import KeepDimsMean

        pool = blocks[-1].pool
        head = [
            pool.pre_conv,
            pool.pre_norm,
            pool.pre_act,
            KeepDimsMean(),
            pool.post_conv,
            pool.post_norm,
            pool.post_act,
        ]
        return nn.Sequential(*blocks[:-1], *[layer for layer in head if layer is not None], nn.Flatten(1))
    return nn.Sequential(*blocks[:-1], MeanOverSpaceTime())


def resize_positions(state: dict[str, torch.Tensor], network: nn.Module) -> dict[str, torch.Tensor]:
    """Fit MViT's position embeddings in a checkpoint to the frames and size that a network was built for."""
    from extract.backbones.positions import resize_grid, square_side

    resized = dict(state)
    for key, expected in network.state_dict().items():
        if key not in state or state[key].shape == expected.shape:
            continue
        found, wanted = state[key].shape[1], expected.shape[1]
        if key.endswith("pos_embed_temporal"):
            resized[key] = resize_grid(state[key], (found, 1, 1), (wanted, 1, 1))
        elif key.endswith("pos_embed_spatial") and (side := square_side(found)) and (to := square_side(wanted)):
            resized[key] = resize_grid(state[key], (1, side, side), (1, to, to))
    return resized
