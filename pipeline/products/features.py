"""Feature sets as products: a crop set seen by a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.errors import NotFoundError
from pipeline.products.backbone import backbone_ref
from pipeline.products.product import Kind, Product, Ref, Stored, Units
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset


@dataclass(frozen=True)
class Features(Product):
    """A feature set; its name is ``crop set/feature set``."""

    crops: str
    feature_set: str
    fingerprint: Mapping[str, Any] | None = None
    """What decides its numbers: only extraction can say (weights, decoder); None elsewhere."""
    accept: tuple[str, ...] = ()
    """Fields of it that may differ from what the store holds."""
    network: Ref | None = None
    """The pretrained network that makes it, where the store holds or will hold it."""

    kind: ClassVar[Kind] = "features"
    unit: ClassVar[str] = "shards"

    @property
    def inputs(self) -> tuple[Ref, ...]:
        """The network where it is pretrained here, and the videos."""
        videos = Ref("videos", self.dataset)
        return (videos,) if self.network is None else (self.network, videos)

    def content(self, ds: Dataset) -> Mapping[str, Any] | None:
        """Return the feature fingerprint."""
        return self.fingerprint

    def stored(self, ds: Dataset) -> Stored | None:
        """Return the feature set of this name."""
        try:
            info = ds.feature_info(self.crops, self.feature_set)
        except NotFoundError:
            return None
        return Stored(info.fingerprint_id, "", info.fingerprint)

    def units(self, ds: Dataset) -> Units:
        """Return the shards; to be done are those with a video that has no result."""
        shards = tuple(range(ds.num_shards))
        try:
            return Units(shards, tuple(ds.undone_shards(self.crops, self.feature_set)))
        except NotFoundError:
            return Units(shards, shards)

    def accepts(self, key: str) -> bool:
        """Whether the recipe accepts another value; a prefix such as ``decoder`` covers its fields."""
        return any(key == field or key.startswith(f"{field}.") for field in self.accept)

    def field(self, key: str) -> str:
        """Fingerprint fields go by their own names."""
        return key

    def rows(self) -> list[dict[str, object]]:
        """One row."""
        return [{"features": self.name}]


def features_ref(crops: str, feature_set: str) -> Ref:
    """Name a feature set as a product."""
    return Ref("features", f"{crops}/{feature_set}")


def feature_products(recipe: Recipe) -> tuple[Features, ...]:
    """Return every feature set that a recipe asks for."""
    return tuple(
        Features(
            recipe.dataset.name,
            t.label,
            f"backbones.{t.backbone}",
            t.crops,
            t.feature_set,
            network=backbone_ref(recipe, t.backbone),
        )
        for t in recipe.targets()
    )


def feature_sets_read(recipe: Recipe, crops: str, feature_set: str | None) -> tuple[str, ...]:
    """Return which feature sets a section with these `crops` and this `backbone` reads.

    Raises
    ------
    NotFoundError
        If no backbone of the recipe sees this crop set.
    """
    targets = recipe.targets()
    found = tuple(t.feature_set for t in targets if t.crops == crops and feature_set in (None, t.feature_set))
    if not found:
        raise NotFoundError(
            f"expected a backbone that sees the crop set {crops!r}"
            f"{'' if feature_set is None else f' as {feature_set!r}'}, found {[t.label for t in targets]}; "
            "correct `crops` or `backbone` of the section"
        )
    return tuple(dict.fromkeys(found))


def has_features(ds: Dataset, crops: str, feature_set: str) -> bool:
    """Whether any shard of a feature set is there."""
    if crops not in ds.crop_sets() or feature_set not in ds.feature_sets(crops):
        return False
    return bool(ds.ledger(crops, feature_set).generations)


def shard_states(ds: Dataset, crops: str, feature_set: str) -> dict[int, str]:
    """Shard -> what its features hold, for every shard that has any."""
    return {found.shard: found.content_id for found in ds.ledger(crops, feature_set).summaries()}
