"""The plan of the stage `train`: whether a model must be made, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aggregate.data.rows import choose_rows
from pipeline.errors import NotFoundError
from pipeline.fingerprint import fingerprint
from pipeline.recipe import Recipe
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import Dataset, FeatureStore

ALGORITHM = 1
"""Raised when the same recipe would train to other numbers."""
WITHOUT_EFFECT = frozenset({"name", "checkpoint_epochs", "compile"})
"""Fields of TrainSpec that do not change what a model computes."""
WAITS_FOR_EXTRACT, WAITS_FOR_TRAIN = "unknown until extract has run", "unknown until train has run"
"""Why a plan cannot say yet what there is to do."""


@dataclass(frozen=True)
class TrainPlan:
    """The frozen plan of the stage `train`."""

    recipe: Recipe
    content: Mapping[str, Any] | None
    """What decides the model, the fingerprint's content; None where features do not exist yet."""
    snapshot: str
    num_videos: int | None
    is_empty: bool
    why: str
    force: bool = False

    stage = "train"

    @property
    def fingerprint(self) -> str:
        """sha256 of `content`."""
        return fingerprint(self.content) if self.content is not None else ""

    def summary(self) -> str:
        """One line: what would be done, how much of it, and why."""
        spec = self.recipe.train
        if spec is None or self.is_empty:
            return f"train: nothing to do, {self.why}"
        videos = "?" if self.num_videos is None else self.num_videos
        return f"train: model {spec.name} on {videos} videos, {spec.epochs} epochs; {self.why}"

    def table(self) -> Sequence[Mapping[str, object]]:
        """Return one row a model."""
        spec = self.recipe.train
        if spec is None:
            return []
        return [
            {
                "model": spec.name,
                "features": f"{spec.crops}/{spec.backbone}",
                "objective": spec.objective.kind,
                "rows": "all (transductive)" if spec.rows == "all" else f"train of split {spec.split}",
                "videos": "?" if self.num_videos is None else self.num_videos,
                "epochs": 0 if self.is_empty else spec.epochs,
                "why": self.why,
            }
        ]


def plan_train(recipe: Recipe, store: FeatureStore, settings: Settings, *, force: bool = False) -> TrainPlan:
    """Find out whether the recipe's model must be trained.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Only read.
    settings : Settings
    force : bool
        Train even if a model of this fingerprint and snapshot is there.

    Returns
    -------
    TrainPlan
        Where the features do not exist yet it says "unknown until extract has run".

    Raises
    ------
    NoDataError
        If features exist, but none of rows that the policy allows.
    """
    spec = recipe.train
    if spec is None:
        return TrainPlan(recipe, None, "", None, True, "the recipe has no train section", force)
    waiting = TrainPlan(recipe, None, "", None, False, WAITS_FOR_EXTRACT, force)
    try:
        dataset = store.dataset(recipe.dataset.name)
        info = dataset.feature_info(spec.crops, spec.backbone)
    except NotFoundError:
        return waiting
    if info.num_shards_done == 0:
        return waiting
    rows = choose_rows(dataset, spec)
    content = {
        "algorithm": ALGORITHM,
        "dataset": recipe.dataset.name,
        "features": info.fingerprint_id,
        "train": spec.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
    }
    snapshot = dataset.snapshot(crops=spec.crops, feature_set=spec.backbone)
    why = _reason(dataset, spec.name, fingerprint(content), snapshot)
    done = why is None and not force
    text = why or ("asked to train again" if force else f"model {spec.name} has this fingerprint and snapshot")
    return TrainPlan(recipe, content, snapshot, len(rows.rows), done, text, force)


def _reason(dataset: Dataset, name: str, wanted: str, snapshot: str) -> str | None:
    try:
        meta = dataset.artifact("models", name).meta
    except NotFoundError:
        return f"there is no model {name} yet"
    if meta.get("fingerprint") != wanted:
        return f"model {name} was trained another way"
    if meta.get("snapshot") != snapshot:
        return f"videos or features changed since model {name} was trained"
    return None
