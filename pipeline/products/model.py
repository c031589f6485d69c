"""Models as products: a training on stored features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.names import did_you_mean
from pipeline.products.features import features_ref
from pipeline.products.product import Kind, Product, Ref, Stored
from pipeline.recipe import Recipe, TrainSpec

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

TRAINING_VERSION = 1
"""Raised when the same recipe would train to other numbers."""
WITHOUT_EFFECT = frozenset({"name", "checkpoint_epochs", "compile"})
"""Fields of TrainSpec that do not change what a model computes."""


@dataclass(frozen=True)
class Model(Product):
    """A trained model."""

    spec: TrainSpec

    kind: ClassVar[Kind] = "model"

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The features of each stream."""
        return tuple(features_ref(*pair) for pair in self.spec.inputs)

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return the training's fields and the fingerprints of its features."""
        ids = [ds.feature_info(*pair).fingerprint_id for pair in self.spec.inputs]
        trained = self.spec.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
        if self.spec.normalise == "none":  # how models were trained before there was a choice: in no fingerprint
            del trained["normalise"]
        return {
            "algorithm": TRAINING_VERSION,
            "dataset": self.dataset,
            "features": ids[0] if len(ids) == 1 else ids,
            "train": trained,
        }

    def snapshot(self, ds: Dataset) -> str:
        """Return the state of the features; of several streams, of all of them."""
        states = [ds.snapshot(crops=crops, feature_set=feature_set) for crops, feature_set in self.spec.inputs]
        return states[0] if len(states) == 1 else fingerprint(states)

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the model of this name."""
        try:
            artifact = ds.artifact("models", self.name)
        except NotFoundError:
            return None
        if not artifact.is_whole():  # its files are gone or cut: as good as none
            return None
        meta = artifact.meta
        known = meta.get("fingerprint_content") or {"train": meta.get("config", {})}
        return Stored(str(meta.get("fingerprint", "")), str(meta.get("snapshot", "")), known)

    def made_of(self, key: str) -> Ref | None:
        """Return the features, where a key speaks of them."""
        head, _, place = key.partition("[")
        if head != "features":
            return None
        return self.inputs[int(place.rstrip("]")) if place else 0]

    def field(self, key: str) -> str:
        """``train.epochs``, or ``models.<name>.epochs``."""
        return f"{self.section}.{key.removeprefix('train.')}" if key.startswith("train.") else key

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        spec = self.spec
        return [
            {
                "model": self.name,
                "features": ", ".join(ref.name for ref in self.inputs),
                "objective": spec.objective.kind,
                "rows": "all (transductive)" if spec.rows == "all" else f"train of split {spec.split}",
                "epochs": spec.epochs,
            }
        ]


def model_products(recipe: Recipe, only: Iterable[str] | None = None) -> tuple[Model, ...]:
    """Return the models that a recipe trains.

    Parameters
    ----------
    recipe : Recipe
    only : iterable of str, optional
        Names of those that are wanted; None: all.

    Raises
    ------
    InvalidInputError
        If the recipe has no model of a name in `only`.
    """
    wanted = None if only is None else set(only)
    if wanted is not None and (unknown := sorted(wanted - recipe.trainings.keys())):
        known = ", ".join(recipe.trainings) or "none"
        raise InvalidInputError(
            f"expected a model of recipe {recipe.name} ({known}), found {unknown[0]!r}"
            f"{did_you_mean(unknown[0], recipe.trainings)}"
        )
    return tuple(
        Model(recipe.dataset.name, name, recipe.training_section(name), spec)
        for name, spec in recipe.trainings.items()
        if wanted is None or name in wanted
    )
