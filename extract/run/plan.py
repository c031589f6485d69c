"""What extraction would do, before it does it: shards, rows, crops and bytes, without pixels or a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from extract.decoding.versions import decoder_identity
from extract.run.network_record import ways_of
from extract.targets import ResolvedTarget, is_waiting, resolve_targets, select_targets
from pipeline.errors import FingerprintMismatchError, InvalidInputError, NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.products import Features, Standing, feature_products, standings
from pipeline.products.backbone import backbone_ref
from pipeline.products.features import has_features
from pipeline.recipe import Recipe
from pipeline.recipe.backbones import ImportedBackbone
from pipeline.sets.ledger_entry import UNDONE
from pipeline.settings import Settings
from pipeline.status import VideoStatus
from pipeline.storage.layout import shard_range
from pipeline.storage.schema import PENDING

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore

UNKNOWN = "the dataset is not catalogued yet: unknown until catalog has run"


@dataclass(frozen=True)
class TargetWork:
    """What one target lacks in one shard."""

    label: str
    num_rows: int
    num_crops: int
    reason: str


@dataclass(frozen=True)
class ShardPlan:
    """One shard that lacks something."""

    shard: int
    num_videos: int
    """Videos to decode: the union over its targets."""
    targets: tuple[TargetWork, ...]


@dataclass(frozen=True)
class ExtractPlan:
    """The frozen plan of the stage `extract`."""

    recipe: Recipe
    targets: tuple[ResolvedTarget, ...]
    shards: tuple[ShardPlan, ...]
    num_shards_done: int
    """Shards of feature sets that are complete already."""
    retry: tuple[str, ...] = ()
    is_catalogued: bool = True
    standings: tuple[Standing, ...] = ()
    """Of every feature set that is asked for."""
    ways: Mapping[str, str] = field(default_factory=dict)
    """How a backbone runs that made what is there (openvino, compiled, plain); what comes beside is made alike."""
    num_elsewhere: Mapping[str, int] = field(default_factory=dict)
    """Target label -> crops that it lacks in shards which this plan leaves to others, or to later runs."""

    stage = "extract"

    @property
    def is_empty(self) -> bool:
        """Whether every feature is there already, and stays."""
        return self.is_catalogued and not self.shards and not self.to_follow

    @property
    def to_follow(self) -> tuple[Standing, ...]:
        """Feature sets that are going to change, or to be made, once another stage has run."""
        return tuple(one for one in self.standings if one.follows or one.waits_for is not None)

    @property
    def waiting(self) -> tuple[Standing, ...]:
        """Feature sets whose network is still to be pretrained."""
        return tuple(one for one in self.standings if one.waits_for is not None and one.waits_for.kind == "backbone")

    @property
    def num_videos(self) -> int:
        """Videos to decode."""
        return sum(s.num_videos for s in self.shards)

    @property
    def num_crops(self) -> int:
        """Features to compute: crops times networks that see them."""
        return sum(t.num_crops for s in self.shards for t in s.targets)

    @property
    def fingerprint(self) -> str:
        """One hash over the fingerprints of all targets."""
        return fingerprint({t.label: dict(t.fingerprint) for t in self.targets})

    def num_crops_lacking(self, backbone: str) -> int:
        """Return how many crops of the whole dataset a backbone is still to see, in this run or another.

        How its network runs is decided once for all of them, so a run of a few shards decides as one of all would.
        """
        labels = {t.label for t in self.targets if t.target.backbone == backbone}
        here = sum(t.num_crops for s in self.shards for t in s.targets if t.label in labels)
        return here + sum(count for label, count in self.num_elsewhere.items() if label in labels)

    def summary(self) -> str:
        """One line: what would be done, how much of it, and why."""
        if not self.is_catalogued:
            return f"extract: {UNKNOWN}"
        if not self.shards:
            if follows := next((one.why for one in self.to_follow), None):
                return f"extract: {follows}; as the store is now, {self.num_shards_done} shards are complete"
            return f"extract: nothing to do, {self.num_shards_done} shards are complete"
        return (
            f"extract: {self.num_videos} videos in {len(self.shards)} shards, {self.num_crops} features for "
            f"{', '.join(t.label for t in self.targets)}; {self.num_shards_done} shards of feature sets are complete"
        )

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return one row a shard and target, for people."""
        if not self.is_catalogued:
            return [
                {"target": one.product.name, "shard": "?", "videos": "?", "crops": "?", "why": UNKNOWN}
                for one in self.standings
            ]
        rows: list[Mapping[str, object]] = [
            {"target": t.label, "shard": s.shard, "videos": t.num_rows, "crops": t.num_crops, "why": t.reason}
            for s in self.shards
            for t in s.targets
        ]
        listed = {t.label for s in self.shards for t in s.targets}
        return rows + [
            {"target": one.product.name, "shard": "?", "videos": "?", "crops": "?", "why": one.why}
            for one in self.to_follow
            if one.product.name not in listed
        ]


def plan_extract(
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    *,
    shards: Iterable[int] | None = None,
    retry: Iterable[str] = (),
    targets: Iterable[str] | None = None,
) -> ExtractPlan:
    """Find out which features of a recipe the store lacks.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Read only here.
    settings : Settings
        Says where weights lie.
    shards : iterable of int, optional
        Only these shards.
    retry : iterable of str
        Statuses whose videos are to be tried again, e.g. ``("unreadable", "missing")``.
    targets : iterable of str, optional
        Only these: ``crops/feature set``, or the name of a crop set or feature set.

    Returns
    -------
    ExtractPlan

    Raises
    ------
    FingerprintMismatchError
        If the store holds features made another way under the same name.
    InvalidInputError
        If `shards`, `retry` or `targets` name what does not exist.
    """
    again = _check_statuses(retry)
    _check_imported(recipe, store)
    known = recipe.dataset.name in store.datasets()
    dataset = store.dataset(recipe.dataset.name) if known else None
    chosen = list(targets) if targets is not None else None
    resolved = resolve_targets(recipe, settings, decoder=decoder_identity(settings), only=chosen, dataset=dataset)
    later = standings(products_to_pretrain_first(recipe, dataset, chosen), store)
    if dataset is None:
        waiting = (*standings(products_to_extract(recipe, resolved), store), *later)
        return ExtractPlan(recipe, resolved, (), 0, again, is_catalogued=False, standings=waiting)
    wanted = _check_shards(shards, dataset.num_shards)
    found = standings(products_to_extract(recipe, resolved), store)
    for one in found:
        _gate(one)
    lacking = [_lacking(dataset, target, again) for target in resolved]
    plans: list[ShardPlan] = []
    num_works = 0
    for shard in wanted:
        works: list[TargetWork] = []
        is_to_decode = np.zeros(dataset.shard_rows, bool)
        for target, undone in zip(resolved, lacking, strict=True):
            if undone is None or shard in undone:
                is_lacking, reason = _work(dataset, target, shard, again, is_new=undone is None)
                num_rows = int(is_lacking.sum())
                works.append(TargetWork(target.label, num_rows, num_rows * target.policy.num_crops, reason))
                is_to_decode[: len(is_lacking)] |= is_lacking
        num_works += len(works)
        if works:
            plans.append(ShardPlan(shard, int(is_to_decode.sum()), tuple(works)))
    num_done = len(wanted) * len(resolved) - num_works
    return ExtractPlan(
        recipe, resolved, tuple(plans), num_done, again,
        standings=(*found, *later), ways=ways_of(dataset, resolved),
        num_elsewhere=_num_elsewhere(dataset, resolved, lacking, wanted),
    )  # fmt: skip


def check_targets(recipe: Recipe, settings: Settings) -> None:
    """Look whether everything is there that extraction will need but the videos: weights, sizes that fit.

    Raises
    ------
    ShapeMismatchError, NotFoundError, WeightsError
        As :func:`extract.targets.resolve_targets`.
    """
    known = [t.label for t in recipe.targets() if backbone_ref(recipe, t.backbone) is None]  # others: in the store
    resolve_targets(recipe, settings, decoder=decoder_identity(settings), only=known)


def _check_imported(recipe: Recipe, store: FeatureStore) -> None:
    """Refuse a recipe whose imported features nobody imported."""
    for target in recipe.targets():
        if not isinstance(recipe.backbones[target.backbone], ImportedBackbone):
            continue
        ds = store.dataset(recipe.dataset.name) if recipe.dataset.name in store.datasets() else None
        if ds is None or not has_features(ds, target.crops, target.feature_set):
            raise NotFoundError(
                f"expected imported features {target.label} of {recipe.dataset.name} in {store.url}, found none; "
                f"`scale import {store.url} FILE --dataset {recipe.dataset.name} --features {target.label}` first"
            )
        if ds.crop_policy(target.crops) != (policy := recipe.crops[target.crops]):
            raise FingerprintMismatchError(
                f"crops.{target.crops}: expected the crops that came with the features "
                f"({ds.crop_policy(target.crops).model_dump(mode='json')}), found {policy.model_dump(mode='json')}",
                fields=["crops"],
            )


def products_to_extract(recipe: Recipe, targets: Iterable[ResolvedTarget]) -> tuple[Features, ...]:
    """Return the feature sets as products, with the fingerprints that only extraction knows."""
    products = {product.name: product for product in feature_products(recipe)}
    return tuple(
        replace(products[target.label], fingerprint=dict(target.fingerprint), accept=recipe.accept)
        for target in targets
    )


def products_to_pretrain_first(
    recipe: Recipe, dataset: Dataset | None, only: Iterable[str] | None
) -> tuple[Features, ...]:
    """Return the feature sets whose network is still to be pretrained."""
    products = {product.name: product for product in feature_products(recipe)}
    return tuple(
        products[target.label] for target in select_targets(recipe, only) if is_waiting(recipe, target, dataset)
    )


def _check_statuses(retry: Iterable[str]) -> tuple[str, ...]:
    known = [str(s) for s in VideoStatus]
    for status in retry:
        if status not in known:
            raise InvalidInputError(f"expected a status out of {', '.join(known)} to retry, found {status!r}")
    return tuple(dict.fromkeys(str(s) for s in retry))


def _check_shards(shards: Iterable[int] | None, num_shards: int) -> list[int]:
    if shards is None:
        return list(range(num_shards))
    wanted = sorted(set(shards))
    outside = [s for s in wanted if not 0 <= s < num_shards]
    if outside:
        raise InvalidInputError(f"expected shards out of 0..{num_shards - 1}, found {outside}")
    return wanted


def _gate(one: Standing) -> None:
    """Refuse to mix features that were made another way."""
    if one.changes:
        lines = "; ".join(f"{c.field}: stored {c.old!r}, offered {c.new!r}" for c in one.changes)
        raise FingerprintMismatchError(
            f"feature set {one.product.name} was made another way. Differs in {lines}. "
            "Use another name for the new features, or list a field under `accept` if the difference is harmless.",
            fields=[c.field for c in one.changes],
        )


def _lacking(dataset: Dataset, target: ResolvedTarget, again: tuple[str, ...]) -> frozenset[int] | None:
    """Return the shards that lack something; None when nothing of the feature set exists."""
    try:
        return frozenset(dataset.undone_shards(target.crops, target.feature_set, again))
    except NotFoundError:
        return None


def _num_elsewhere(
    dataset: Dataset,
    targets: Iterable[ResolvedTarget],
    lacking: Iterable[frozenset[int] | None],
    wanted: Sequence[int],
) -> dict[str, int]:
    """Return how many crops each target lacks in the shards that are not wanted; whole shards, since none is read.

    Counted, not listed: a task of one shard must not be the longer the more shards there are.
    """
    last, found = dataset.num_shards - 1, {}
    num_missing_in_last = dataset.num_shards * dataset.shard_rows - dataset.num_rows
    for target, undone in zip(targets, lacking, strict=True):
        num_undone = dataset.num_shards if undone is None else len(undone)
        num_wanted = len(wanted) if undone is None else sum(shard in undone for shard in wanted)
        num_rows = (num_undone - num_wanted) * dataset.shard_rows
        if last not in wanted and (undone is None or last in undone):
            num_rows -= num_missing_in_last
        found[target.label] = num_rows * target.policy.num_crops
    return found


def _work(
    dataset: Dataset, target: ResolvedTarget, shard: int, again: tuple[str, ...], *, is_new: bool
) -> tuple[np.ndarray, str]:
    """Return which rows of a shard are to be done, bool, and why."""
    start, stop = shard_range(shard, dataset.shard_rows, dataset.num_rows)
    if is_new:
        return np.ones(stop - start, bool), "new feature set"
    statuses = dataset.shard_statuses(target.crops, target.feature_set, shard)
    return np.isin(statuses, [*UNDONE, *again]), _reason(statuses, again)


def _reason(statuses: np.ndarray, again: tuple[str, ...]) -> str:
    """Say why a shard has something to do, from the statuses of its rows."""
    pending, killed = (int((statuses == s).sum()) for s in (PENDING, VideoStatus.INTERRUPTED))
    if pending == len(statuses):
        return "no ledger entry"
    if pending or killed:
        why = f", {killed} of them because their decoding was killed" if killed else ""
        return f"{pending + killed} videos without a result{why}"
    return f"retry: {', '.join(sorted(set(statuses) & set(again)))}"
