"""Pretrained backbones as products: a network that learned from the videos' pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.products.product import Kind, Product, Ref, Stored, wanted_of
from pipeline.recipe import PretrainedBackbone, PretrainSpec, Recipe

if TYPE_CHECKING:
    from pipeline.store.artifacts import Artifact
    from pipeline.store.dataset import Dataset

PRETRAINING_VERSION = 1
"""Raised when the same recipe would pretrain to other numbers."""
WITHOUT_EFFECT = frozenset({"checkpoint_epochs", "checkpointing"})
"""Fields of PretrainSpec that do not change what a backbone computes."""
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class PretrainedNetwork(Product):
    """A pretrained backbone. New videos do not make it again: it is frozen, and features are made of it."""

    spec: PretrainSpec

    kind: ClassVar[Kind] = "backbone"

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The videos."""
        return (Ref("videos", self.dataset),)

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return the pretraining's fields."""
        fields = self.spec.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
        return {"algorithm": PRETRAINING_VERSION, "dataset": self.dataset, "pretrain": fields}

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the backbone of this name.

        Raises
        ------
        InvalidInputError
            If a model of another kind bears it.
        """
        try:
            artifact = ds.artifact("models", self.name)
        except NotFoundError:
            return None
        if not is_backbone(artifact):
            raise InvalidInputError(
                f"expected no model {self.name} in dataset {self.dataset}, or a pretrained backbone, found one "
                f"that was trained on features; give the pretraining in {self.section} another name"
            )
        if not artifact.is_whole():
            return None
        meta = artifact.meta
        return Stored(str(meta.get("fingerprint", "")), "", meta.get("fingerprint_content") or {})

    def field(self, key: str) -> str:
        """``pretrain.<name>.epochs``."""
        return f"{self.section}.{key.removeprefix('pretrain.')}" if key.startswith("pretrain.") else key

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        spec = self.spec
        return [
            {
                "backbone": self.name,
                "network": spec.encoder.network,
                "streams": ", ".join(spec.streams),
                "objective": spec.objective.kind,
                "rows": "all (transductive)" if spec.rows == "all" else f"train of split {spec.split}",
                "epochs": spec.epochs,
            }
        ]


def backbone_products(recipe: Recipe, only: Iterable[str] | None = None) -> tuple[PretrainedNetwork, ...]:
    """Return the backbones that a recipe pretrains.

    Parameters
    ----------
    recipe : Recipe
    only : iterable of str, optional
        Names of those that are wanted; None: all.

    Raises
    ------
    InvalidInputError
        If the recipe pretrains none of a name in `only`.
    """
    wanted = wanted_of(recipe.pretrain, only, f"a pretraining of recipe {recipe.name}")
    return tuple(
        PretrainedNetwork(recipe.dataset.name, name, f"pretrain.{name}", spec) for name, spec in wanted.items()
    )


def backbone_ref(recipe: Recipe, backbone: str) -> Ref | None:
    """Name the pretrained network that a backbone of a recipe is, where it is one of the store."""
    spec = recipe.backbones[backbone]
    return Ref("backbone", spec.model) if isinstance(spec, PretrainedBackbone) and spec.model else None


def backbones_named(recipe: Recipe) -> tuple[str, ...]:
    """Return the pretrained networks of the store that the backbones of a recipe are."""
    refs = (backbone_ref(recipe, name) for name in recipe.backbones)
    return tuple(dict.fromkeys(ref.name for ref in refs if ref is not None))


def is_backbone(artifact: Artifact) -> bool:
    """Whether what stands among the models is a pretrained backbone."""
    return artifact.meta.get("what") == "backbone"


def has_backbone(ds: Dataset, name: str) -> bool:
    """Whether the store holds a pretrained backbone of this name."""
    return name in ds.artifacts("models") and is_backbone(ds.artifact("models", name))


def features_made_of(ds: Dataset, weights_sha256: str) -> tuple[str, ...]:
    """Return the feature sets (``crops/feature set``) that a network with these weights made."""
    found = []
    for crops in ds.crop_sets():
        for feature_set in ds.feature_sets(crops):
            described = ds.feature_info(crops, feature_set).fingerprint.get("backbone")
            weights = described.get("weights") if isinstance(described, Mapping) else None
            if isinstance(weights, Mapping) and weights.get("sha256") == weights_sha256:
                found.append(f"{crops}/{feature_set}")
    return tuple(found)
