"""The same network, faster and equal to float tolerance: folded norms, in-place activations, channels last.

Measured with x3d_xs on 2 cores: as built 35 crops/s, tuned 124; see
``benchmarks/backbones.py``. Every change is checked against the untouched
network on random pixels; one that does not hold is dropped.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from extract.backbones.interface import BackboneInfo
from extract.backbones.layers import ChannelsFirst, ChannelsLast, ConvolutionWithActivation, MeanOverFrames
from pipeline.compute.seeds import seeded

log = logging.getLogger(__name__)

TOLERANCE = 1e-5
"""Largest relative difference (of norms) between the tuned and the untouched network."""
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def tuned(network: nn.Module, info: BackboneInfo, device_type: str = "cpu") -> nn.Module:
    """Return a faster network with the same output, or the given one where that fails.

    Parameters
    ----------
    network : nn.Module
        (B, 3, T, H, W) float32 -> (B, D), in evaluation mode, on the CPU.
    info : BackboneInfo
        Says which input it takes.
    device_type : str
        Where it is going to run; programs are fused for a CPU alone.
    """
    if not any(isinstance(m, BATCH_NORMS) for m in network.modules()) and info.kind != "exported":
        return network  # a transformer: nothing to fold, and its layout is not that of a convolution
    example = example_clips(info)
    try:
        with torch.no_grad():  # not inference mode: weights made in it cannot be convolved with on a GPU in float32
            expected = network(example)
            candidate = fold_batch_norms(_copied(network), example)
            if device_type == "cpu" and torch.backends.mkldnn.is_available():
                fuse_activations(candidate, example)
                _fuse_programs(candidate)
            if device_type == "cpu" or not _has_depthwise_3d(candidate):
                candidate = _with_channels_last(candidate)
            else:
                candidate = ChannelsFirst(candidate)
            difference = relative_difference(candidate(example), expected)
    except (RuntimeError, AttributeError) as err:  # fixed strides, or a torch without the fused convolution
        log.info("%s runs as built: %s", info.name, str(err).splitlines()[0])
        return network
    if not difference <= TOLERANCE:
        log.warning("%s runs as built: tuning changed its features by %.1e", info.name, difference)
        return network
    return candidate


def example_clips(info: BackboneInfo, num_crops: int = 2) -> torch.Tensor:
    """Return a few small random crops that the backbone takes, from its own generator."""
    frames = info.num_frames or (1 if info.input == "frame" else max(4, 2 * info.frames_multiple))
    size = info.size_px or 64
    return torch.randn((num_crops, 3, frames, size, size), generator=seeded(0))


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def use_python_ints(network: nn.Module) -> nn.Module:
    """Turn NumPy integers among the settings of layers into Python's, which can be traced, and return the network."""
    for module in network.modules():
        for name in ("kernel_size", "stride", "padding", "dilation"):
            value = getattr(module, name, None)
            if isinstance(value, tuple | list):
                setattr(module, name, tuple(v if isinstance(v, str) else int(v) for v in value))
    return network


def fold_batch_norms(network: nn.Module, example: torch.Tensor) -> nn.Module:
    """Fold every batch norm into the convolution that feeds it, and let activations work in place.

    Which convolution feeds which norm is seen by running the network: the
    order in which a module lists its parts says nothing about it.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = _fed_by_convolution(network, example)
    places = {id(m): (parent, name) for parent in network.modules() for name, m in parent.named_children()}
    for convolution, norm in pairs:
        _replace(places, convolution, fuse_conv_bn_eval(convolution, norm))
        _replace(places, norm, nn.Identity())
    for module in list(network.modules()):
        if isinstance(module, nn.ReLU):
            module.inplace = True
        elif type(module).__name__ == "Swish":  # pytorchvideo's keeps its input for a backward pass that never comes
            _replace(places, module, nn.SiLU(inplace=True))
    return network


def fuse_activations(network: nn.Module, example: torch.Tensor) -> None:
    """Call oneDNN for every convolution, and let it apply the activation that follows; CPU only.

    An activation so done never leaves the cache. Called this way oneDNN also
    serves one-threaded runs, for which torch's own choice is a slower path.
    """
    places = {id(m): (parent, name) for parent in network.modules() for name, m in parent.named_children()}
    followers = {id(c): a for c, a in _fed_by_convolution(network, example, (nn.ReLU, nn.SiLU))}
    for convolution in [m for m in network.modules() if isinstance(m, CONVOLUTIONS)]:
        if convolution.padding_mode != "zeros" or isinstance(convolution.padding, str):
            continue
        activation = followers.get(id(convolution))
        _replace(places, convolution, ConvolutionWithActivation(convolution, activation))
        if activation is not None:
            _replace(places, activation, nn.Identity())


def _fed_by_convolution(
    network: nn.Module, example: torch.Tensor, kinds: tuple[type[nn.Module], ...] = BATCH_NORMS
) -> list[tuple[Any, Any]]:
    """Return convolutions and the modules of some kinds whose input is exactly their output, each used once."""
    made_by: dict[int, nn.Module] = {}
    outputs: list[torch.Tensor] = []  # kept, so that an id is not given twice
    pairs: list[tuple[nn.Module, nn.Module]] = []
    uses: Counter[int] = Counter()

    def after_convolution(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        made_by[id(output)] = module
        outputs.append(output)
        uses[id(module)] += 1

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        uses[id(module)] += 1
        if id(inputs[0]) in made_by:
            pairs.append((made_by[id(inputs[0])], module))

    hooks = []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            hooks.append(module.register_forward_hook(after_convolution))
        elif isinstance(module, kinds):
            hooks.append(module.register_forward_pre_hook(before))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [(c, n) for c, n in pairs if uses[id(c)] == 1 and uses[id(n)] == 1]


def _replace(places: dict[int, tuple[nn.Module, str]], old: nn.Module, new: nn.Module) -> None:
    parent, name = places[id(old)]
    parent._modules[name] = new
    places[id(new)] = (parent, name)


def _copied(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():  # torch's own copy of a program's specification warns of torch's own class
        warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec.` is deprecated", FutureWarning)
        return copy.deepcopy(network)


def _fuse_programs(network: nn.Module) -> None:
    from extract.backbones.graph_fusing import fuse_convolutions

    for module in network.modules():
        if isinstance(module, torch.fx.GraphModule):
            fuse_convolutions(module)


def _has_depthwise_3d(network: nn.Module) -> bool:
    """Whether a network convolves channels by themselves, in time too.

    A GPU does that fast with colours first alone: X3D-XS in float16 on an H100 6,985 crops/s, with colours last 3,178.
    """
    return any(isinstance(m, nn.Conv3d) and 1 < m.groups == m.in_channels for m in network.modules())


def _with_channels_last(network: nn.Module) -> nn.Module:
    if isinstance(network, MeanOverFrames):
        return MeanOverFrames(ChannelsLast(network.image_network))
    return ChannelsLast(network)
