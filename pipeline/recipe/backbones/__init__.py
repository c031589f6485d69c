"""Frozen networks that turn crops into features; one file a kind."""

from typing import Annotated

from pipeline.recipe.backbones.audio import AudioBackbone
from pipeline.recipe.backbones.base import (
    BackboneBase,
    NamedWeights,
    RandomWeights,
    Stream,
    Weights,
    WeightsFile,
    feature_set_name,
)
from pipeline.recipe.backbones.exported import ExportedBackbone
from pipeline.recipe.backbones.imported import ImportedBackbone
from pipeline.recipe.backbones.pretrained import PretrainedBackbone
from pipeline.recipe.backbones.pytorchvideo import PytorchVideoBackbone
from pipeline.recipe.backbones.transformers import TransformerBackbone
from pipeline.recipe.kinds import Kinds

BACKBONES = Kinds("scale.backbones", BackboneBase, __name__)
BackboneSpec = Annotated[BackboneBase, BACKBONES]

__all__ = [
    "BACKBONES",
    "AudioBackbone",
    "BackboneBase",
    "BackboneSpec",
    "ExportedBackbone",
    "ImportedBackbone",
    "NamedWeights",
    "PretrainedBackbone",
    "PytorchVideoBackbone",
    "RandomWeights",
    "Stream",
    "TransformerBackbone",
    "Weights",
    "WeightsFile",
    "feature_set_name",
]
