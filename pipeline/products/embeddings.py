"""Embedding sets as products: which of them a recipe writes, under which names, and who reads which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import NotFoundError, RecipeError
from pipeline.fingerprint import fingerprint
from pipeline.products.features import features_ref, shard_states
from pipeline.products.product import Kind, Product, Ref, Stored, Units
from pipeline.recipe import EmbedSpec, ReadoutSpec, Recipe, TrainSpec
from pipeline.recipe.readouts import plain_readout
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_entry import REPLACED
from pipeline.storage.schema import PENDING

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset

SOURCE = "features"
"""Key in a ledger entry's versions: which state of the feature shard the embeddings were made from."""


@dataclass(frozen=True)
class Embeddings(Product):
    """An embedding set: a readout of one model, or one that needs none."""

    spec: EmbedSpec
    model: TrainSpec | None
    untrained: ReadoutSpec | None = None
    """What a readout without a model is made of."""

    kind: ClassVar[Kind] = "embeddings"
    unit: ClassVar[str] = "shards"

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """(crop set, feature set) of each stream that is read."""
        return self.spec.inputs(self.model) if self.untrained is None else self.untrained.feature_sets

    @property
    def crops(self) -> str:
        """The crop set (of the first stream)."""
        return self.sources[0][0]

    @property
    def feature_set(self) -> str:
        """The feature set (of the first stream): probes measure the embeddings beside these features."""
        return self.sources[0][1]

    @property
    def readout(self) -> str:
        """Of the `embed` section."""
        return self.spec.readout

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The model, and the features it is given."""
        model = () if self.model is None else (Ref("model", self.model.name),)
        return (*model, *(features_ref(*pair) for pair in self.sources))

    def content(self, ds: Dataset) -> Mapping[str, Any]:
        """Return model, readout and features by their fingerprints."""
        ids = [ds.feature_info(*pair).fingerprint_id for pair in self.sources]
        own: dict[str, Any] = {"readout": self.spec.readout, "sets": self.spec.sets}
        if self.model is None:
            assert self.untrained is not None
            own = {"readout": self.untrained.decides(), "split": self.spec.split}
        else:
            meta = ds.artifact("models", self.model.name).meta
            made_by = {"fingerprint": meta["fingerprint"], "weights_sha256": meta["weights_sha256"]}
            own["model"] = {"name": self.model.name, **made_by}
        if len(ids) == 1:
            return own | {"crops": self.crops, "feature_set": self.feature_set, "features": ids[0]}
        streams = [{"crops": c, "feature_set": f, "features": i} for (c, f), i in zip(self.sources, ids, strict=True)]
        return own | {"streams": streams}

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the embedding set of this name."""
        try:
            info = ds.embedding_info(self.name)
        except NotFoundError:
            return None
        return Stored(info.fingerprint_id, "", info.fingerprint)

    def units(self, ds: Dataset) -> Units:
        """Return the shards that can be done; to be done are those made from another state of the features, or not."""
        states = self.source_states(ds)
        shards = tuple(sorted(states))
        if self.name not in ds.embedding_sets():
            return Units(shards, shards)
        ledger = ds.ledger(None, self.name)
        return Units(shards, tuple(s for s in shards if made_from(ledger, s) != states[s]))

    def source_states(self, ds: Dataset) -> dict[int, str]:
        """Shard -> the state of its features, for shards that all streams have."""
        of_streams = [shard_states(ds, *pair) for pair in self.sources]
        if len(of_streams) == 1:
            return of_streams[0]
        common = set(of_streams[0]).intersection(*of_streams[1:])
        return {shard: fingerprint([states[shard] for states in of_streams]) for shard in common}

    def made_of(self, key: str) -> Ref | None:
        """Return the model or the features, where a key speaks of their making."""
        if key in ("model.fingerprint", "model.weights_sha256") and self.model is not None:
            return Ref("model", self.model.name)
        if key == "features":
            return features_ref(*self.sources[0])
        if key.startswith("streams[") and key.endswith(".features"):
            return features_ref(*self.sources[int(key[8 : key.index("]")])])
        return None

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        return [
            {
                "embedding": self.name,
                "model": "-" if self.model is None else self.model.name,
                "features": ", ".join("/".join(pair) for pair in self.sources),
                "readout": self.spec.readout,
                "sets": self.spec.sets,
            }
        ]


def made_from(ledger: Ledger, shard: int) -> str | None:
    """Return which state of the feature shard an embedding shard was made from; None where it has to be made again."""
    entry = ledger.passing(shard)
    if entry is None or (entry.reason in ("repair", REPLACED) and PENDING in entry.statuses):  # some rows were dropped
        return None
    return entry.versions.get(SOURCE)


def embedding_products(recipe: Recipe) -> tuple[Embeddings, ...]:
    """Return every embedding set that a recipe writes, by its one rule of names.

    A set bears the name of its `embed` section, else of its model. Where a section reads all models of `models`, or
    several, its name is followed by the model's.

    Raises
    ------
    RecipeError
        If two sets would bear one name.
    """
    found: list[Embeddings] = []
    for i, spec in enumerate(recipe.embed):
        section = f"embed[{i}]"
        if not spec.needs_model:
            made_of = recipe.readouts.get(spec.readout) or plain_readout(spec.readout, *spec.inputs(None)[0])
            found.append(Embeddings(recipe.dataset.name, spec.name or spec.readout, section, spec, None, made_of))
            continue
        is_shared = bool(recipe.models) and (spec.models is None or len(spec.models) > 1)
        for model in spec.models if spec.models is not None else recipe.trainings:
            own = model if spec.name is None else (f"{spec.name}-{model}" if is_shared else spec.name)
            found.append(Embeddings(recipe.dataset.name, own, section, spec, recipe.trainings[model]))
    by_name: dict[str, Embeddings] = {}
    for one in found:
        if (other := by_name.setdefault(one.name, one)) is not one:
            raise RecipeError(
                f"expected a name of its own for every embedding set, found {one.name!r} in {other.section} and "
                f"{one.section}; give one of them another `name`"
            )
    return tuple(found)


def embeddings_read(
    recipe: Recipe, crops: str, feature_set: str, models: Sequence[str] | None = None
) -> tuple[Embeddings, ...]:
    """Return the embedding sets that a probe or index of these features reads, in the recipe's order.

    Parameters
    ----------
    recipe : Recipe
    crops, feature_set : str
    models : sequence of str, optional
        Only those that these models made; None: all.
    """
    return tuple(
        one
        for one in embedding_products(recipe)
        if (one.crops, one.feature_set) == (crops, feature_set)
        and (models is None or (one.model is not None and one.model.name in models))
    )
