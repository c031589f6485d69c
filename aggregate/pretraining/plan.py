"""The plan of the stage `pretrain`: which backbones must be made, and why; what stands in the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.errors import FingerprintMismatchError
from pipeline.products import ProductPlan, Standing, backbone_products, plan_products
from pipeline.products.backbone import features_made_of
from pipeline.recipe import Recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import FeatureStore


def plan_pretrain(
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    *,
    only: Iterable[str] | None = None,
    force: bool = False,
) -> ProductPlan:
    """Find out which of the recipe's backbones must be pretrained.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Only read.
    settings : Settings
    only : iterable of str, optional
        Names of pretrainings; None: all of the recipe.
    force : bool
        Pretrain even if a backbone of this fingerprint is there.

    Raises
    ------
    InvalidInputError
        If the recipe has no pretraining of a name in `only`, or a model of another kind bears it.
    FingerprintMismatchError
        If a changed pretraining would take the place of a backbone that features are made of.
    """
    plan = plan_products("pretrain", recipe, backbone_products(recipe, only), store, force=force)
    for one in plan.standings:
        _gate(one, store)
    return plan


def _gate(one: Standing, store: FeatureStore) -> None:
    """Refuse to put another network under a name that features stand for: they would mix, or be made again unasked."""
    if not one.replaces and not one.is_forced:
        return
    product = one.product
    dataset = store.dataset(product.dataset)
    weights = str(dataset.artifact("models", product.name).meta.get("weights_sha256", ""))
    if made := features_made_of(dataset, weights):
        raise FingerprintMismatchError(
            f"backbone {product.name} would be made again ({one.why}), and the features {', '.join(made)} are made of "
            f"the one that stands; give the changed pretraining in {product.section} another name, and the backbone "
            "that uses it, too",
            fields=[change.field for change in one.changes],
        )
