"""The frozen plan of a stage that makes products: train, embed, probe and index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipeline.fingerprint import fingerprint
from pipeline.products.product import Product
from pipeline.products.standing import Standing, follow, standings
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.store.feature_store import FeatureStore


@dataclass(frozen=True)
class ProductPlan:
    """What a stage would make, and why."""

    stage: str
    recipe: Recipe
    standings: tuple[Standing, ...]
    """Of every product of the stage, those that are done included."""

    @property
    def is_empty(self) -> bool:
        """Whether everything is there already."""
        return all(one.is_done for one in self.standings)

    @property
    def todo(self) -> tuple[Standing, ...]:
        """Those that are not done."""
        return tuple(one for one in self.standings if not one.is_done)

    @property
    def fingerprint(self) -> str:
        """That of the one product; of several, one hash over theirs."""
        if len(self.standings) == 1:
            return self.standings[0].fingerprint
        return fingerprint({one.product.name: one.content for one in self.standings})

    @property
    def snapshot(self) -> str:
        """The state of the store that the last product is made of."""
        return self.standings[-1].snapshot if self.standings else ""

    def summary(self) -> str:
        """One line: what would be done, how much of it, and why."""
        if not self.standings:
            return f"{self.stage}: nothing to do, the recipe has no section for it"
        if self.is_empty:
            return f"{self.stage}: nothing to do, {_listed(self.standings)} up to date"
        done = [one for one in self.standings if one.is_done]
        text = "; ".join(f"{one.product.ref}: {one.why}" for one in self.todo)
        return f"{self.stage}: {text}" + (f" ({_listed(done)} up to date)" if done else "")

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return one row a unit of work that people think in, the reason last."""
        return [
            {**row, **_units(one), "why": one.why} for one in self.standings for row in one.rows or one.product.rows()
        ]


def plan_products(
    stage: str, recipe: Recipe, products: Iterable[Product], store: FeatureStore, *, force: bool = False
) -> ProductPlan:
    """Find out how the products of a stage stand.

    Parameters
    ----------
    stage : str
    recipe : Recipe
    products : iterable of Product
    store : FeatureStore
        Only read.
    force : bool
        Make again what is done, too.
    """
    found = standings(products, store)
    if force:
        found = tuple(replace(one, is_forced=one.state == "done", todo=one.todo or (0,)) for one in found)
    return ProductPlan(stage, recipe, follow(found))


def _units(one: Standing) -> dict[str, object]:
    """Return how many units are to be done, where there are several; unknown behind what is going to change them."""
    if not one.product.unit:
        return {}
    return {one.product.unit: "?" if one.content is None or one.follows else len(one.todo)}


def _listed(found: Iterable[Standing]) -> str:
    return ", ".join(str(one.product.ref) for one in found)
