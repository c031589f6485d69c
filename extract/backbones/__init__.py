"""Frozen networks that turn crops into features.

>>> from extract.backbones import load_backbone
>>> from pipeline.recipe import PytorchVideoBackbone
>>> from pipeline.settings import Settings
>>> spec = PytorchVideoBackbone(kind="pytorchvideo", model="x3d_xs", weights={"random": 0})
>>> load_backbone(spec, Settings(), "cpu").dim
2048
"""

from extract.backbones.interface import Backbone, BackboneInfo, check_clip_shape, spread_frames
from extract.backbones.kinds import info_of, network_of
from extract.backbones.load import describe_backbone, load_backbone
from extract.backbones.optimising import Optimisation, optimise, say_uncompiled_once

__all__ = [
    "Backbone",
    "BackboneInfo",
    "Optimisation",
    "check_clip_shape",
    "describe_backbone",
    "info_of",
    "load_backbone",
    "network_of",
    "optimise",
    "say_uncompiled_once",
    "spread_frames",
]
