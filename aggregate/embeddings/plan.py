"""The plan of the stage `embed`: which embeddings are missing, stale or of another model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.products import ProductPlan, embedding_products, follow, model_products, standings
from pipeline.recipe import Recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import FeatureStore


def plan_embed(
    recipe: Recipe, store: FeatureStore, settings: Settings, *, only: Iterable[str] | None = None
) -> ProductPlan:
    """Find out which embeddings of a recipe are missing, stale or of another model.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Only read.
    settings : Settings
    only : iterable of str, optional
        Names of models: their embeddings alone; None: all of the recipe.

    Returns
    -------
    ProductPlan
        Embeddings of a model that the recipe would train otherwise now follow it.
    """
    models = follow(standings(model_products(recipe), store))
    wanted = {model.name for model in model_products(recipe, only)}
    sets = [one for one in embedding_products(recipe) if only is None or (one.model and one.model.name in wanted)]
    return ProductPlan("embed", recipe, follow(standings(sets, store), before=models))
