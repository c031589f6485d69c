"""Search by words, where a backbone has a text tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.query_video import data_folder
from flows.search import Condition, SearchResult, present_hits, rows_where
from pipeline import Dataset, FeatureStore
from pipeline.errors import NotFoundError, PipelineError
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.recipe.backbones.text import TextTower


@dataclass(frozen=True)
class TextTarget:
    """A feature set that words can be compared with, and how they get there."""

    crops: str
    feature_set: str
    tower: TextTower

    @property
    def label(self) -> str:
        """``crops/feature set``."""
        return f"{self.crops}/{self.feature_set}"


def text_targets(ds: Dataset, recipe: Recipe | None = None) -> list[TextTarget]:
    """Return the feature sets of a dataset whose backbone has a text tower.

    Parameters
    ----------
    ds : Dataset
    recipe : Recipe, optional
        Asked instead of the recipes that the store remembers: for features that were made before the tower was named.
    """
    found = []
    for crops in ds.crop_sets():
        for name in ds.feature_sets(crops):
            known = recipe or _remembered(ds, crops, name)
            tower = None if known is None else known.text_tower(name)
            if tower is not None:
                found.append(TextTarget(crops, name, tower))
    return found


def _remembered(ds: Dataset, crops: str, feature_set: str) -> Recipe | None:
    content = ds.feature_info(crops, feature_set).recipe
    if not content:
        return None
    try:
        return parse_recipe(dict(content), source="the recipe in the store")
    except PipelineError:  # of a kind that is not installed here
        return None


def pick_target(ds: Dataset, features: str | None, recipe: Recipe | None = None) -> TextTarget:
    """Return the feature set to search: the named one, else the first; NotFoundError says what there is."""
    targets = text_targets(ds, recipe)
    for target in targets:
        if features in (None, target.label, target.feature_set):
            return target
    known = ", ".join(target.label for target in targets)
    if features is not None and known:
        raise NotFoundError(f"expected features with a text tower out of {known}, found {features!r}")
    raise NotFoundError(
        f"expected a backbone with a text tower in dataset {ds.name}, found none; name it under `text` of the backbone "
        "in the recipe, and give that recipe (--recipe) if the features were made before"
    )


def load_tower(target: TextTarget, ds: Dataset, settings: Settings) -> Any:
    """Return the text tower of a target, in memory."""
    from extract.backbones.text_tower import load_text_tower

    places = {"recipe_dir": settings.recipe_dir or settings.data or data_folder(ds)}
    return load_text_tower(target.tower, settings.model_copy(update=places))


def search_text(
    store: FeatureStore,
    dataset: str,
    text: str,
    settings: Settings,
    *,
    k: int = 10,
    features: str | None = None,
    where: Condition | None = None,
    recipe: Recipe | None = None,
) -> SearchResult:
    """Find the stored videos nearest to some words.

    Parameters
    ----------
    store : FeatureStore
    dataset, text : str
    settings : Settings
        Says where the tower's files lie.
    k : int, default 10
    features : str, optional
        ``crops/feature set``; None: the first whose backbone has a text tower.
    where : Condition, optional
        Search only the videos for which it holds.
    recipe : Recipe, optional
        That names the tower, where the store's own does not.

    Raises
    ------
    NotFoundError
        If no backbone has a text tower, or its files are not there.
    """
    from probe.index.text_search import WordsIndex

    ds = store.dataset(dataset)
    target = pick_target(ds, features, recipe)
    words = WordsIndex(ds, target.crops, target.feature_set)
    vector = load_tower(target, ds, settings).encode([text])[0]
    found = words.search(vector, k, rows_where(store, dataset, where))
    hits = present_hits(store, dataset, found, settings)
    facts = {"name": target.label, "kind": "flat", "num_vectors": ds.num_videos, "dim": words.dim, "recall": {},
             "snapshot": ds.snapshot(crops=target.crops, feature_set=target.feature_set),
             "fingerprint": ds.feature_info(target.crops, target.feature_set).fingerprint_id}  # fmt: skip
    return SearchResult(text, hits, facts, None)
