"""The stages in their order, each as the pair of verbs that its package offers.

Packages are imported when a stage is used: `scale --help` and a plan over a
finished store must not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from pipeline.events import OnEvent, ignore
from pipeline.reports import StageReport
from pipeline.stage import StagePlan

if TYPE_CHECKING:
    from pipeline import FeatureStore
    from pipeline.recipe import Recipe
    from pipeline.settings import Settings


@dataclass(frozen=True)
class Stage:
    """One stage: where its verbs live, and what it needs from a recipe."""

    name: str
    module: str
    summary: str
    section: str | None = None
    """The recipe section without which there is nothing to do."""

    def is_wanted(self, recipe: Recipe) -> bool:
        """Whether the recipe asks for this stage at all."""
        if self.section == "train":
            return bool(recipe.trainings)
        return self.section is None or bool(getattr(recipe, self.section))

    def plan(self, recipe: Recipe, store: FeatureStore, settings: Settings, **options: Any) -> StagePlan:
        """Make the frozen plan; costs neither pixels nor a GPU."""
        verb = cast(Callable[..., StagePlan], getattr(import_module(self.module), f"plan_{self.name}"))
        return verb(recipe, store, settings, **options)

    def run(
        self,
        plan: StagePlan,
        store: FeatureStore,
        settings: Settings,
        on_event: OnEvent = ignore,
        **options: Any,
    ) -> StageReport:
        """Do what the plan says and return the stage's report."""
        verb = cast(Callable[..., StageReport], getattr(import_module(self.module), f"run_{self.name}"))
        return verb(plan, store, settings, on_event=on_event, **options)


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("catalog", "extract.catalog.stage", "find the videos and describe them in the catalogue"),
        Stage("pretrain", "flows.pretraining", "pretrain backbones on the videos' pixels", section="pretrain"),
        Stage("extract", "extract.run.stage", "decode the videos once and store the features of their crops"),
        Stage("train", "aggregate.stage", "train the SCALE model on stored features", section="train"),
        Stage("embed", "aggregate.stage", "write video embeddings back into the store", section="embed"),
        Stage("probe", "probe.stage", "measure features and embeddings, and write the report", section="probes"),
        Stage("index", "probe.index.stage", "build the search indexes", section="indexes"),
    )
}
