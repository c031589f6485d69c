"""The plan of the stage `embed`: which embeddings are missing, stale or of another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregate.embeddings.embed import Readout
from aggregate.training.plan import WAITS_FOR_EXTRACT, WAITS_FOR_TRAIN, plan_train
from pipeline.errors import NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.recipe import EmbedSpec, Recipe, TrainSpec
from pipeline.sets.ledger import Ledger
from pipeline.settings import Settings
from pipeline.storage.schema import PENDING

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore

SOURCE = "features"
"""Key in a ledger entry's versions: which state of the feature shard the embeddings were made from."""


@dataclass(frozen=True)
class EmbeddingPlan:
    """One embedding set of the recipe."""

    name: str
    crops: str
    feature_set: str
    readout: Readout
    sets: int
    content: Mapping[str, Any] | None
    """The fingerprint's content; None where model or features do not exist yet."""
    shards: tuple[int, ...]
    """Shards with something to do."""
    num_shards_done: int
    replaces: bool
    """Whether a set of another model stands under the name and goes first."""
    why: str


@dataclass(frozen=True)
class EmbedPlan:
    """The frozen plan of the stage `embed`."""

    recipe: Recipe
    targets: tuple[EmbeddingPlan, ...]

    stage = "embed"

    @property
    def is_empty(self) -> bool:
        """Whether every embedding is there already."""
        return all(t.content is not None and not t.shards and not t.replaces for t in self.targets)

    @property
    def fingerprint(self) -> str:
        """One hash over those of all sets."""
        return fingerprint({t.name: t.content for t in self.targets})

    def summary(self) -> str:
        """One line: what would be done, how much of it, and why."""
        if not self.targets:
            return "embed: nothing to do, the recipe has no embed section"
        if self.is_empty:
            return f"embed: nothing to do, {', '.join(t.name for t in self.targets)} complete"
        return "embed: " + "; ".join(f"{t.name}: {t.why}" for t in self.targets)

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return one row an embedding set."""
        return [
            {
                "embedding": t.name,
                "features": f"{t.crops}/{t.feature_set}",
                "readout": t.readout,
                "sets": t.sets,
                "shards": "?" if t.content is None else len(t.shards),
                "why": t.why,
            }
            for t in self.targets
        ]


def plan_embed(recipe: Recipe, store: FeatureStore, settings: Settings) -> EmbedPlan:
    """Find out which embeddings of a recipe are missing, stale or of another model.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Only read.
    settings : Settings
    """
    spec = recipe.train
    if spec is None or not recipe.embed:
        return EmbedPlan(recipe, ())
    try:
        dataset: Dataset | None = store.dataset(recipe.dataset.name)
        waits = "" if plan_train(recipe, store, settings).is_empty else WAITS_FOR_TRAIN
    except NotFoundError:
        dataset, waits = None, WAITS_FOR_EXTRACT
    return EmbedPlan(recipe, tuple(plan_target(dataset, spec, one, waits) for one in recipe.embed))


def plan_target(dataset: Dataset | None, spec: TrainSpec, one: EmbedSpec, waits: str = "") -> EmbeddingPlan:
    """Plan one embedding set; `waits` says what is not known yet."""
    name, feature_set = one.name or spec.name, one.backbone or spec.backbone
    fixed = (name, one.crops, feature_set, one.readout, one.sets)
    if dataset is None or waits:
        return EmbeddingPlan(*fixed, None, (), 0, False, waits)
    try:
        info = dataset.feature_info(one.crops, feature_set)
    except NotFoundError:
        return EmbeddingPlan(*fixed, None, (), 0, False, WAITS_FOR_EXTRACT)
    try:
        model = dataset.artifact("models", spec.name).meta
    except NotFoundError:
        return EmbeddingPlan(*fixed, None, (), 0, False, WAITS_FOR_TRAIN)
    content = {
        "model": {"name": spec.name, "fingerprint": model["fingerprint"], "weights_sha256": model["weights_sha256"]},
        "crops": one.crops,
        "feature_set": feature_set,
        "features": info.fingerprint_id,
        "readout": one.readout,
        "sets": one.sets,
    }
    source = source_states(dataset, one.crops, feature_set)
    readable = tuple(sorted(source))
    try:
        stored = dataset.embedding_info(name)
    except NotFoundError:
        return EmbeddingPlan(*fixed, content, readable, 0, False, "there is no such embedding set yet")
    if stored.fingerprint_id != fingerprint(content):
        return EmbeddingPlan(*fixed, content, readable, 0, True, "replaces the embeddings of another model or readout")
    ledger = dataset.ledger(None, name)
    stale = tuple(s for s in readable if made_from(ledger, s) != source[s])
    why = (
        f"{len(stale)} of {len(readable)} shards are missing or were made from other features" if stale else "complete"
    )
    return EmbeddingPlan(*fixed, content, stale, len(readable) - len(stale), False, why)


def source_states(dataset: Dataset, crops: str, feature_set: str) -> dict[int, str]:
    """Shard -> what its features hold, for every shard that has any."""
    ledger = dataset.ledger(crops, feature_set)
    entries = ((shard, ledger.entry(shard)) for shard in ledger.generations)
    return {shard: entry.content_id for shard, entry in entries if entry is not None}


def made_from(ledger: Ledger, shard: int) -> str | None:
    """Return which state of the feature shard an embedding shard was made from; None where it has to be made again."""
    entry = ledger.entry(shard)
    if entry is None or (entry.reason == "repair" and PENDING in entry.statuses):  # a repair dropped some of its rows
        return None
    return entry.versions.get(SOURCE)
