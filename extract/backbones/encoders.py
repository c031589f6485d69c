"""Networks to pretrain, at any size: one line a builder; crops in, one vector a crop out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from extract.backbones.interface import BackboneInfo
from pipeline.errors import InvalidInputError, MissingDependencyError
from pipeline.recipe import EncoderSpec

if TYPE_CHECKING:
    from torch import nn

READOUT = "mean over space and time of the last stage"
_MVIT_READOUT = "class token after the last norm"
_WIDTHS = {"small": 16, "x3d": 12, "mvit": 96}
_WIDTH_OF_RESNETS = 64


@dataclass(frozen=True, slots=True)
class Builder:
    """How a network of pytorchvideo is made at a size.

    Attributes
    ----------
    function : str
        In ``pytorchvideo.models``: ``module.function``.
    fixed : mapping
        Arguments that make it this network.
    """

    function: str
    fixed: Mapping[str, Any]


BUILDERS: Mapping[str, Builder] = {
    "slow": Builder("resnet.create_resnet", {}),
    "c2d": Builder(
        "resnet.create_resnet",
        {"stem_conv_kernel_size": (1, 7, 7), "stage_conv_a_kernel_size": ((1, 1, 1),) * 4},
    ),
    "i3d": Builder(
        "resnet.create_resnet",
        {
            "stem_conv_kernel_size": (5, 7, 7),
            "stage_conv_a_kernel_size": (
                (3, 1, 1), [(3, 1, 1), (1, 1, 1)], [(3, 1, 1), (1, 1, 1)], [(1, 1, 1), (3, 1, 1)]
            ),
        },
    ),
    "r2plus1d": Builder("r2plus1d.create_r2plus1d", {}),
    "csn": Builder("csn.create_csn", {}),
    "x3d": Builder("x3d.create_x3d", {}),
    "mvit": Builder("vision_transformers.create_multiscale_vision_transformers", {}),
}  # fmt: skip


def build_encoder(spec: EncoderSpec, num_frames: int) -> nn.Module:
    """Build a network as its builder draws its weights: (B, 3, T, S, S) -> (B, D).

    Parameters
    ----------
    spec : EncoderSpec
    num_frames : int
        T.

    Raises
    ------
    MissingDependencyError
        If pytorchvideo is needed and not installed.
    InvalidInputError
        If its builder refuses the size.
    """
    width = spec.width or _WIDTHS.get(spec.network, _WIDTH_OF_RESNETS)
    if spec.network == "small":
        from extract.backbones.small_network import SmallNetwork

        return SmallNetwork(width, spec.depth or 1, _norm(spec.norm))
    return _headless(spec, _build(spec, width, num_frames))


def _build(spec: EncoderSpec, width: int, num_frames: int) -> nn.Module:
    from importlib import import_module

    from extract.backbones.torchvision_standin import import_pytorchvideo_models

    builder = BUILDERS[spec.network]
    module, function = builder.function.split(".")
    try:
        import_pytorchvideo_models()
        make: Callable[..., nn.Module] = getattr(import_module(f"pytorchvideo.models.{module}"), function)
    except ImportError as err:
        raise MissingDependencyError(
            f"the encoder {spec.network} needs pytorchvideo, which cannot be imported ({err}); pip install pytorchvideo"
        ) from err
    sizes = _SIZES.get(spec.network, _resnet_sizes)(spec, width, num_frames)
    if spec.network != "mvit":
        sizes |= {"norm": _norm(spec.norm)}
    try:
        return make(**builder.fixed, **sizes)
    except (AssertionError, ValueError, RuntimeError) as err:
        raise InvalidInputError(
            f"expected a size that {spec.network} can be built at, found depth {spec.depth}, width {width}, "
            f"{num_frames} frames of {spec.size_px} px: {str(err).strip() or type(err).__name__}"
        ) from err


def _resnet_sizes(spec: EncoderSpec, width: int, num_frames: int) -> dict[str, Any]:
    depth = 50 if spec.depth is None else spec.depth
    if depth not in (50, 101):
        raise InvalidInputError(f"expected depth 50 or 101 for the encoder {spec.network}, found {depth}")
    return {"model_depth": depth, "stem_dim_out": width, "head": None} if spec.network in ("slow", "c2d", "i3d") else {
        "model_depth": depth, "stem_dim_out": width}  # fmt: skip


def _x3d_sizes(spec: EncoderSpec, width: int, num_frames: int) -> dict[str, Any]:
    return {
        "stem_dim_in": width,
        "depth_factor": float(spec.depth or 2.2),
        "input_clip_length": num_frames,
        "input_crop_size": spec.size_px,
    }


def _mvit_sizes(spec: EncoderSpec, width: int, num_frames: int) -> dict[str, Any]:
    depth = spec.depth or 16
    # Width and heads double where the resolution halves: before the blocks at 1/16, 3/16 and 14/16 of the depth.
    at = sorted({max(1, round(share * depth)) for share in (1 / 16, 3 / 16, 14 / 16)} & set(range(1, depth)))
    return {
        "spatial_size": spec.size_px,
        "temporal_size": num_frames,
        "depth": depth,
        "patch_embed_dim": width,
        "embed_dim_mul": [[block, 2.0] for block in at],
        "atten_head_mul": [[block, 2.0] for block in at],
        "pool_q_stride_size": [[block, 1, 2, 2] for block in at],
        "pool_kv_stride_adaptive": [1, 4, 4],
        "pool_kvq_kernel": [3, 3, 3],
        "head": None,
    }


_SIZES: Mapping[str, Callable[[EncoderSpec, int, int], dict[str, Any]]] = {"x3d": _x3d_sizes, "mvit": _mvit_sizes}


def _norm(kind: str) -> Callable[..., nn.Module]:
    from torch import nn

    if kind == "batch":
        return nn.BatchNorm3d
    from extract.backbones.small_network import GroupNorm3d

    return partial(GroupNorm3d, by_frame=kind == "temporal_group")


def _headless(spec: EncoderSpec, network: Any) -> nn.Module:
    from torch import nn

    from extract.backbones.layers import MeanOverSpaceTime

    if spec.network == "mvit":
        from extract.backbones.zoo_layers import ClassToken

        return nn.Sequential(network, ClassToken())
    blocks = list(network.blocks)
    if spec.network in ("slow", "c2d", "i3d"):  # built without a head
        return nn.Sequential(*blocks, MeanOverSpaceTime())
    return nn.Sequential(*blocks[:-1], MeanOverSpaceTime())


def encoder_info(spec: EncoderSpec, num_frames: int, dim: int | None = None) -> BackboneInfo:
    """Describe a network that was, or is to be, pretrained; its weights are filled in by the caller."""
    size = f"depth {spec.depth or 'own'}, width {spec.width or 'own'}, {spec.norm} norm"
    return BackboneInfo(
        name=spec.network,
        kind="pretrained",
        model=f"{spec.network} ({size})",
        readout=_MVIT_READOUT if spec.network == "mvit" else READOUT,
        mean=spec.mean,
        std=spec.std,
        dim=dim,
        num_frames=num_frames,
        size_px=spec.size_px,
    )


def save_memory(network: nn.Module) -> nn.Module:
    """Let the blocks of a network compute their activations again in the backward pass instead of keeping them."""
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    blocks = next((m for m in network.modules() if isinstance(m, nn.Sequential) and len(m) > 1), None)
    for block in blocks or ():
        plain = block.forward
        block.forward = partial(checkpoint, plain, use_reentrant=False)
    return network
