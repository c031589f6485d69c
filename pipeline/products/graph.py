"""The graph of a recipe: every product that it asks for, each after what it is made of."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.products.backbone import backbone_products
from pipeline.products.embeddings import embedding_products
from pipeline.products.features import feature_products
from pipeline.products.index import index_products
from pipeline.products.model import model_products
from pipeline.products.product import Product, Ref
from pipeline.products.report import report_products
from pipeline.recipe import Recipe


def products_of(recipe: Recipe) -> tuple[Product, ...]:
    """Return every product of a recipe, each after its inputs.

    Indexes are there only where the recipe names some: the one that `scale index` makes without is no part of a run.

    Raises
    ------
    RecipeError
        If two embedding sets would bear one name.
    NotFoundError
        If a section reads features that no backbone of the recipe makes.
    """
    return (
        *backbone_products(recipe),
        *feature_products(recipe),
        *model_products(recipe),
        *embedding_products(recipe),
        *report_products(recipe),
        *(index_products(recipe) if recipe.indexes else ()),
    )


def made_from(products: Iterable[Product], ref: Ref) -> tuple[Ref, ...]:
    """Return what is made from a product, directly or not, in order."""
    reached = {ref}
    found = []
    for product in products:
        if reached.intersection(product.inputs):
            reached.add(product.ref)
            found.append(product.ref)
    return tuple(found)
