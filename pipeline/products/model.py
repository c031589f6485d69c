"""Models as products: a training on stored features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import InvalidInputError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.products.backbone import is_backbone
from pipeline.products.features import features_ref
from pipeline.products.product import Kind, Product, Ref, Stored, wanted_of
from pipeline.recipe import Recipe, TrainSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store.dataset import Dataset
    from pipeline.store.selection import Selection

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
        """The features of each stream, and the motion score where crops are dealt by it."""
        return tuple(features_ref(*pair) for pair in self.spec.reads)

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return the training's fields and the fingerprints of its features."""
        ids = [ds.feature_info(*pair).fingerprint_id for pair in self.spec.reads]
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
        states = [ds.snapshot(crops=crops, feature_set=feature_set) for crops, feature_set in self.spec.reads]
        return states[0] if len(states) == 1 else fingerprint(states)

    def reads(self, ds: Dataset) -> str:
        """Return the features, the rows that it learns from, and which of those are of one group: no label counts."""
        states = [
            ds.snapshot(crops=crops, feature_set=feature_set, with_labels=False)
            for crops, feature_set in self.spec.reads
        ]
        return fingerprint([*states, rows_digest(rows_to_train(ds, self.spec).videos)])

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the model of this name."""
        try:
            artifact = ds.artifact("models", self.name)
        except NotFoundError:
            return None
        if is_backbone(artifact):
            raise InvalidInputError(
                f"expected no model {self.name} in dataset {self.dataset}, or one trained on features, found a "
                f"pretrained backbone; give the model in {self.section} another name"
            )
        if not artifact.is_whole():  # its files are gone or cut: as good as none
            return None
        meta = artifact.meta
        known = meta.get("fingerprint_content") or {"train": meta.get("config", {})}
        reads = str(meta.get("reads", ""))
        return Stored(str(meta.get("fingerprint", "")), str(meta.get("snapshot", "")), known, reads)

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


def rows_to_train(ds: Dataset, spec: TrainSpec) -> Selection:
    """Return the rows that a model may see: those that its split marks as train (inductive), or all (transductive)."""
    if spec.rows == "all":
        return ds.select()
    name = spec.split.replace("'", "''")
    return ds.select(f"splits['{name}'] = 'train'")


def rows_digest(videos: pa.Table) -> str:
    """Return a hash of which rows these are, and which of them are of one group."""
    digest = hashlib.sha256()
    for batch in videos.select(["row", "group"]).to_batches():
        for row, group in zip(batch["row"].to_pylist(), batch["group"].to_pylist(), strict=True):
            digest.update(f"{row}:{group}\n".encode())
    return digest.hexdigest()


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
    wanted = wanted_of(recipe.trainings, only, f"a model of recipe {recipe.name}")
    return tuple(Model(recipe.dataset.name, name, recipe.training_section(name), spec) for name, spec in wanted.items())
