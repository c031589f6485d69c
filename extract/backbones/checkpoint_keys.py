"""Published checkpoints into one network: which copy is read, and what its tensors are called here.

Three spellings of the same ResNets are known: pytorchvideo's own
(``blocks.1.res_blocks.0.branch2.conv_a``), PySlowFast's
(``s2.pathway0_res0.branch2.a``), and pytorchvideo inside PySlowFast
(``model.blocks...``). Self-supervised PySlowFast files (BYOL, MoCo, SimCLR,
SwAV) hold the network under ``backbone.`` and, with a momentum encoder, its
moving average under ``backbone_hist.``; DINO-style files hold two whole
mappings, ``student`` and ``teacher``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pipeline.errors import WeightsError

if TYPE_CHECKING:
    import torch

Copy = Literal["online", "momentum"]

HEAD_KEYS = re.compile(r"blocks\.\d+\.proj\.|head\.|fc\.")
"""Classifiers and projection heads: never read. X3D's pooling head, ``blocks.5.pool``, belongs to the features."""
POOL_AFTER_FIRST_STAGE = ("c2d_r50", "i3d_r50")
"""Networks in which pytorchvideo counts a pooling layer as a block, so that later stages move up by one."""

_STAGE = re.compile(r"s(\d)\.pathway(\d)_res(\d+)\.(.+)")
_STEM = re.compile(r"s1\.pathway(\d)_stem\.(conv|bn)\.(.+)")
_FUSION = re.compile(r"s(\d)_fuse\.(conv_f2s|bn)\.(.+)")
_SUB_BATCH_NORM = re.compile(r"(.*(?:_bn|\.bn))\.bn\.(.+)")


def select_copy(state: Mapping[str, torch.Tensor], network: Copy, *, what: str) -> dict[str, torch.Tensor]:
    """Return one network's tensors out of a self-supervised checkpoint, prefixes taken off.

    Parameters
    ----------
    state : mapping
        Names as stored.
    network : {"online", "momentum"}
        Read from ``backbone.`` or from ``backbone_hist.`` where both exist.
    what : str
        For messages.

    Raises
    ------
    WeightsError
        If the momentum copy is asked for and there is none.
    """
    state = strip_prefix(state, "module.")  # DistributedDataParallel
    has_momentum = any(key.startswith("backbone_hist.") for key in state)
    if network == "momentum" and not has_momentum:
        raise WeightsError(
            f"weights of {what}: expected a momentum copy (keys backbone_hist....), found none; "
            "set `network: online` in the recipe"
        )
    prefix = "backbone_hist." if network == "momentum" else "backbone."
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return strip_prefix(inside or dict(state), "model.")


def strip_prefix(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Take a prefix off all names if every name has it."""
    if state and all(key.startswith(prefix) for key in state):
        return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def without_head(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Leave out classifiers and projection heads."""
    return {key: value for key, value in state.items() if not HEAD_KEYS.match(key)}


def to_pytorchvideo(
    state: Mapping[str, torch.Tensor], model: str, network: Copy, *, what: str
) -> dict[str, torch.Tensor]:
    """Translate a checkpoint's names into those of a pytorchvideo network without its classifier.

    Parameters
    ----------
    state : mapping
        As stored; any of the spellings above.
    model : str
        Name in pytorchvideo's zoo.
    network : {"online", "momentum"}
    what : str
        For messages.

    Raises
    ------
    WeightsError
        If a PySlowFast name has no counterpart (X3D and MViT files of PySlowFast are not translated).
    """
    state = select_copy(state, network, what=what)
    if not any(key.startswith("s1.pathway") for key in state):
        return without_head(state)
    translated = {}
    for key, value in without_head(state).items():
        if ".split_bn." in key:  # statistics of parts of a training batch
            continue
        name = _from_pyslowfast(key, model)
        if name is None:
            raise WeightsError(
                f"weights of {what}: expected a PySlowFast ResNet or SlowFast, found the key {key!r}, which has no "
                f"counterpart in {model}; check the recipe's model"
            )
        translated[name] = value
    return translated


def _from_pyslowfast(key: str, model: str) -> str | None:
    two_pathways = model.startswith("slowfast")
    if found := _SUB_BATCH_NORM.fullmatch(key):  # BN.NORM_TYPE sub_batchnorm keeps its statistics one level deeper
        key = f"{found[1]}.{found[2]}"
    if found := _STEM.fullmatch(key):
        pathway, part, rest = found.groups()
        inner = f"multipathway_blocks.{pathway}." if two_pathways else ""
        return f"blocks.0.{inner}{'norm' if part == 'bn' else 'conv'}.{rest}"
    if found := _FUSION.fullmatch(key):
        stage, part, rest = found.groups()
        layer = "norm" if part == "bn" else "conv_fast_to_slow"
        return f"blocks.{int(stage) - 1}.multipathway_fusion.{layer}.{rest}"
    if found := _STAGE.fullmatch(key):
        stage, pathway, block, rest = found.groups()
        place = int(stage) - 1 + (model in POOL_AFTER_FIRST_STAGE and int(stage) > 2)
        inner = f"multipathway_blocks.{pathway}." if two_pathways else ""
        translated = _block_layer(rest)
        return translated and f"blocks.{place}.{inner}res_blocks.{block}.{translated}"
    return None


def _block_layer(name: str) -> str | None:
    """``branch2.a_bn.weight`` -> ``branch2.norm_a.weight``; ``branch1.weight`` -> ``branch1_conv.weight``."""
    if found := re.fullmatch(r"branch2\.([abc])(_bn)?\.(\w+)", name):
        letter, norm, rest = found.groups()
        return f"branch2.{'norm' if norm else 'conv'}_{letter}.{rest}"
    if found := re.fullmatch(r"branch1(_bn)?\.(\w+)", name):
        return f"branch1_{'norm' if found[1] else 'conv'}.{found[2]}"
    return None
