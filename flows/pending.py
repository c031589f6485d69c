"""What a dry run says of a stage that looks done, behind a stage that is going to change what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pipeline.recipe import Recipe
from pipeline.stage import StagePlan

if TYPE_CHECKING:
    from extract.run.plan import ExtractPlan


@dataclass(frozen=True)
class PendingPlan:
    """A plan that is empty as the store is now, behind a stage that is not."""

    now: StagePlan
    after: str
    """The stage that has work to do."""

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.now.stage

    @property
    def is_empty(self) -> bool:
        """Nobody knows yet, so no."""
        return False

    @property
    def why(self) -> str:
        """The reason for not knowing."""
        return f"unknown until {self.after} has run"

    def summary(self) -> str:
        """One line for people."""
        return f"{self.why}; as the store is now: {self.now.summary()}"

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return the rows of the plan as it is now, with the other reason."""
        return [{**row, "why": self.why} for row in self.now.table() or [{}]]


def mark_pending(recipe: Recipe, plans: Iterable[StagePlan]) -> list[StagePlan]:
    """Replace plans that only look empty.

    Parameters
    ----------
    recipe : Recipe
    plans : iterable of StagePlan
        In the order of the stages, made against one state of the store.
    """
    marked: list[StagePlan] = []
    changed: dict[str, str] = {}  # feature sets, and "embeddings": the stage that is going to change them
    for plan in plans:
        after = next((changed[name] for name in _reads(recipe, plan.stage) if name in changed), None)
        marked.append(PendingPlan(plan, after) if after and plan.is_empty else plan)
        if not marked[-1].is_empty:
            changed |= dict.fromkeys(_changes(recipe, plan), after or plan.stage)
    return marked


def _reads(recipe: Recipe, stage: str) -> list[str]:
    """Return what a stage reads, nearest first."""
    train = recipe.train
    if stage == "extract":
        return ["videos"]
    if stage == "train" and train is not None:
        return _features(recipe, train.crops, train.backbone)
    if stage == "embed" and train is not None:
        return ["model"] + [f for e in recipe.embed for f in _features(recipe, e.crops, e.backbone or train.backbone)]
    specs = {"probe": recipe.probes, "index": recipe.indexes}.get(stage, ())
    features = [feature for spec in specs for feature in _features(recipe, spec.crops, spec.backbone)]
    embedded = {e.crops for e in recipe.embed}
    if any(spec.crops in embedded and getattr(spec, "readout", "cls") != "mean" for spec in specs):
        return ["embeddings", *features]
    return features


def _changes(recipe: Recipe, plan: StagePlan) -> list[str]:
    """Return what a stage that has work to do is going to change."""
    if plan.stage == "catalog":
        return ["videos"]
    if plan.stage == "extract":
        shards = cast("ExtractPlan", plan).shards
        labels = list(dict.fromkeys(target.label for shard in shards for target in shard.targets))
        return labels or [target.label for target in recipe.targets()]  # not catalogued yet: all of them
    return {"train": ["model"], "embed": ["embeddings"]}.get(plan.stage, [])


def _features(recipe: Recipe, crops: str, backbone: str | None) -> list[str]:
    return [t.label for t in recipe.targets() if t.crops == crops and backbone in (None, t.feature_set, t.backbone)]
