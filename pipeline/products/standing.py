"""How a product stands: missing, made another way, inputs changed, n of m units, or done; nothing else compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.fingerprint import fingerprint
from pipeline.products.backbone import has_backbone
from pipeline.products.differences import Change, differences
from pipeline.products.features import has_features
from pipeline.products.product import Product, Ref, Stored

if TYPE_CHECKING:
    from pipeline.store.dataset import Dataset
    from pipeline.store.feature_store import FeatureStore

State = Literal["missing", "made another way", "inputs changed", "partly done", "done"]


@dataclass(frozen=True)
class Standing:
    """What the store says of one product."""

    product: Product
    state: State
    changes: tuple[Change, ...] = ()
    """Fields of the recipe that were otherwise when it was made."""
    changed_inputs: tuple[Ref, ...] = ()
    """What it is made of and is not any more what it was."""
    content: Mapping[str, Any] | None = None
    """Everything that decides its numbers; None while something that it needs is not there."""
    snapshot: str = ""
    num_units: int | None = None
    """Shards, or 1; None while nobody can say."""
    todo: tuple[int, ...] = ()
    """Units to be done."""
    waits_for: Ref | None = None
    """What it needs and the store does not have."""
    follows: tuple[Ref, ...] = ()
    """Inputs that are going to change first."""
    is_forced: bool = False
    rows: tuple[Mapping[str, object], ...] = ()
    """Table rows of the stage that planned it; none: the product's own."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is to be done, now or after what comes before it."""
        return self.state == "done" and not self.follows and not self.is_forced

    @property
    def replaces(self) -> bool:
        """Whether something made another way stands under its name."""
        return self.state in ("made another way", "inputs changed")

    @property
    def num_done(self) -> int:
        """Units that are there and stay."""
        return 0 if self.num_units is None else self.num_units - len(self.todo)

    @property
    def fingerprint(self) -> str:
        """sha256 of `content`; empty where it is not known."""
        return "" if self.content is None else fingerprint(self.content)

    @property
    def why(self) -> str:
        """The reason, for people."""
        reasons = [str(change) for change in self.changes]
        reasons += [f"{ref} changed" for ref in self.changed_inputs]
        if self.waits_for is not None:
            reasons = [f"unknown until {self.waits_for.stage} has run"]
        elif self.state == "missing":
            reasons = [f"there is no {self.product.ref} yet"]
        elif self.state == "partly done":
            reasons = [f"{len(self.todo)} of {self.num_units} shards are missing or were made from other features"]
        if self.follows:
            reasons = ([] if self.state == "done" else reasons) + [f"follows {', '.join(map(str, self.follows))}"]
        if self.is_forced and not reasons:
            reasons = ["asked to make it again"]
        return ", ".join(dict.fromkeys(reasons)) or "up to date"

    def as_json(self) -> dict[str, object]:
        """Return it for machines."""
        return {
            "kind": self.product.kind,
            "name": self.product.name,
            "state": self.state if self.waits_for is None else "unknown",
            "fields": [{"field": c.field, "old": c.old, "new": c.new} for c in self.changes],
            "changed_inputs": [str(ref) for ref in self.changed_inputs],
            "follows": [str(ref) for ref in self.follows],
            "inputs": [str(ref) for ref in self.product.inputs],
            "units": self.num_units,
            "units_done": self.num_done,
            "why": self.why,
        }


def standing(product: Product, store: FeatureStore, *, dataset: Dataset | None = None) -> Standing:
    """Find out how a product stands.

    Parameters
    ----------
    product : Product
    store : FeatureStore
        Only read.
    dataset : Dataset, optional
        The handle to look through; None: one that sees the present.
    """
    if dataset is None:
        if product.dataset not in store.datasets():
            return Standing(product, "missing", waits_for=next(reversed(product.needs), None))
        dataset = store.dataset(product.dataset)
    absent = next((ref for ref in reversed(product.needs) if not is_there(ref, dataset)), None)
    if absent is not None:
        return Standing(product, "missing", waits_for=absent)
    found = Standing(product, "done", content=product.content(dataset), snapshot=product.snapshot(dataset))
    stored, units = product.stored(dataset), product.units(dataset)
    if stored is None:
        return replace(found, state="missing", num_units=1 if units is None else len(units.all),
                       todo=(0,) if units is None else units.todo)  # fmt: skip
    if stored.reads and stored.snapshot != found.snapshot and stored.reads == product.reads(dataset):
        stored = replace(stored, snapshot=found.snapshot)  # what changed is nothing that it reads
    changes, changed_inputs = _compare(product, stored, found)
    if changes or changed_inputs is not None:
        state: State = "made another way" if changes else "inputs changed"
        shards = (0,) if units is None else units.all
        return replace(found, state=state, changes=changes, changed_inputs=changed_inputs or (),
                       num_units=len(shards), todo=shards)  # fmt: skip
    if units is None:
        return replace(found, num_units=1)
    return replace(found, state="partly done" if units.todo else "done", num_units=len(units.all), todo=units.todo)


def standings(products: Iterable[Product], store: FeatureStore) -> tuple[Standing, ...]:
    """Return :func:`standing` of several products of one dataset, all seen at one moment."""
    listed = list(products)
    names = store.datasets() if listed else []
    there = {name: store.dataset(name) for name in {p.dataset for p in listed} if name in names}
    return tuple(standing(product, store, dataset=there.get(product.dataset)) for product in listed)


def follow(found: Iterable[Standing], before: Iterable[Standing] = ()) -> tuple[Standing, ...]:
    """Mark what is going to change because something that it is made of will.

    Parameters
    ----------
    found : iterable of Standing
        In the order in which they are made.
    before : iterable of Standing
        Of the stages before, marked already.
    """
    changing = {one.product.ref for one in before if not one.is_done}
    marked = []
    for one in found:
        follows = tuple(ref for ref in one.product.inputs if ref in changing or ref in one.follows)
        marked.append(one if one.waits_for is not None else replace(one, follows=follows))
        if not marked[-1].is_done:
            changing.add(one.product.ref)
    return tuple(marked)


def is_there(ref: Ref, ds: Dataset) -> bool:
    """Whether the store holds something of this kind and name that can be read."""
    if ref.kind == "videos":
        return ds.num_rows > 0
    if ref.kind == "features":
        return has_features(ds, *ref.name.split("/", 1))
    if ref.kind == "embeddings":
        return ref.name in ds.embedding_sets()
    if ref.kind == "backbone":
        return has_backbone(ds, ref.name)
    folder = {"model": "models", "report": "reports", "index": "indexes"}[ref.kind]
    return ref.name in ds.artifacts(folder)


def _compare(product: Product, stored: Stored, wanted: Standing) -> tuple[tuple[Change, ...], tuple[Ref, ...] | None]:
    """Return the recipe's fields that differ, and the inputs that changed; None where none did."""
    if wanted.content is None:
        return (), None
    same_way = stored.fingerprint == wanted.fingerprint
    if same_way and stored.snapshot == wanted.snapshot:
        return (), None
    found = () if same_way else differences(stored.known, wanted.content)
    refs = [ref for change in found if (ref := product.made_of(change.field)) is not None]
    changes = tuple(
        replace(change, field=product.field(change.field))
        for change in found
        if product.made_of(change.field) is None and not product.accepts(change.field)
    )
    if found and not refs and not changes and stored.snapshot == wanted.snapshot:
        return (), None  # all of it is accepted
    if not refs and (stored.snapshot != wanted.snapshot or not found):
        refs = [ref for ref in product.inputs if ref.kind == "features"] or list(product.inputs)
    return changes, tuple(dict.fromkeys(refs)) or None
