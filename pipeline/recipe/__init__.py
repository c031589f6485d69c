"""Recipes: frozen pydantic models of *what* a run does; unknown keys are errors."""

from pipeline.recipe.backbones import (
    BackboneSpec,
    ExportedBackbone,
    NamedWeights,
    PretrainedBackbone,
    PytorchVideoBackbone,
    RandomWeights,
    Stream,
    TransformerBackbone,
    WeightsFile,
    feature_set_name,
)
from pipeline.recipe.base import Spec
from pipeline.recipe.crops import (
    ColourAugmentation,
    CropPolicy,
    DensePolicy,
    FramesPolicy,
    GridPolicy,
    ImportedPolicy,
    LocalGlobalPolicy,
    RandomPolicy,
    SpeedsPolicy,
)
from pipeline.recipe.dataset import DatasetSpec
from pipeline.recipe.objectives import ObjectiveBase, ObjectiveSpec, ScaleObjective
from pipeline.recipe.pretraining import AugmentSpec, EncoderSpec, PretrainSpec
from pipeline.recipe.probes import IndexSpec, KnnProbe, LinearProbe, ProbeSpec, RetrievalProbe
from pipeline.recipe.readouts import ReadoutPart, ReadoutSpec
from pipeline.recipe.recipe import Recipe, Target, load_recipe, parse_recipe
from pipeline.recipe.training import EmbedSpec, ModelSpec, TrainSpec

__all__ = [
    "AugmentSpec",
    "BackboneSpec",
    "ColourAugmentation",
    "CropPolicy",
    "DatasetSpec",
    "DensePolicy",
    "EmbedSpec",
    "EncoderSpec",
    "ExportedBackbone",
    "FramesPolicy",
    "GridPolicy",
    "ImportedPolicy",
    "IndexSpec",
    "KnnProbe",
    "LinearProbe",
    "LocalGlobalPolicy",
    "ModelSpec",
    "NamedWeights",
    "ObjectiveBase",
    "ObjectiveSpec",
    "PretrainSpec",
    "PretrainedBackbone",
    "ProbeSpec",
    "PytorchVideoBackbone",
    "RandomPolicy",
    "RandomWeights",
    "ReadoutPart",
    "ReadoutSpec",
    "Recipe",
    "RetrievalProbe",
    "ScaleObjective",
    "Spec",
    "SpeedsPolicy",
    "Stream",
    "Target",
    "TrainSpec",
    "TransformerBackbone",
    "WeightsFile",
    "feature_set_name",
    "load_recipe",
    "parse_recipe",
]
