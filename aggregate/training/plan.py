"""The plan of the stage `train`: which models must be made, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from aggregate.data.rows import choose_rows
from pipeline.products import ProductPlan, model_products, plan_products
from pipeline.products.standing import Standing
from pipeline.recipe import Recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import FeatureStore


def plan_train(
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    *,
    only: Iterable[str] | None = None,
    force: bool = False,
) -> ProductPlan:
    """Find out which of the recipe's models must be trained.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Only read.
    settings : Settings
    only : iterable of str, optional
        Names of models; None: all of the recipe.
    force : bool
        Train even if a model of this fingerprint and snapshot is there.

    Returns
    -------
    ProductPlan
        Where the features do not exist yet it says "unknown until extract has run".

    Raises
    ------
    InvalidInputError
        If the recipe has no model of a name in `only`.
    NoDataError
        If features exist, but none of rows that the policy allows.
    """
    plan = plan_products("train", recipe, model_products(recipe, only), store, force=force)
    return replace(plan, standings=tuple(_with_videos(one, recipe, store) for one in plan.standings))


def _with_videos(one: Standing, recipe: Recipe, store: FeatureStore) -> Standing:
    num_videos: object = "?"
    if one.content is not None:
        rows = choose_rows(store.dataset(one.product.dataset), recipe.trainings[one.product.name])
        num_videos = len(rows.rows)
    return replace(one, rows=tuple({**row, "videos": num_videos} for row in one.product.rows()))
