"""The verbs of the stage `pretrain`: aggregate learns from what extract decodes and builds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.events import OnEvent, ignore
from pipeline.products import ProductPlan
from pipeline.recipe import Recipe
from pipeline.reports import StageReport
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline import FeatureStore


def plan_pretrain(
    recipe: Recipe, store: FeatureStore, settings: Settings, *, only: Iterable[str] | None = None, force: bool = False
) -> ProductPlan:
    """Find out which backbones must be pretrained; see :func:`aggregate.pretraining.plan.plan_pretrain`."""
    from aggregate.pretraining.plan import plan_pretrain as plan

    return plan(recipe, store, settings, only=only, force=force)


def run_pretrain(plan: ProductPlan, store: FeatureStore, settings: Settings, on_event: OnEvent = ignore) -> StageReport:
    """Pretrain them; see :func:`aggregate.pretraining.stage.run_pretrain`."""
    from aggregate.pretraining.stage import run_pretrain as run
    from extract.clips.supply import supply_clips

    return run(plan, store, settings, on_event, supply=supply_clips)
