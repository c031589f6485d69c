"""A recipe from start to end without any server: what `scale run` does, and the flows' sub-flows in one process."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from flows.recording import recorded
from flows.render import probe_options
from flows.stages import STAGES, Stage
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError
from pipeline.events import Note, OnEvent, ignore
from pipeline.names import did_you_mean
from pipeline.products import Standing, follow
from pipeline.recipe import Recipe
from pipeline.reports import StageReport
from pipeline.settings import Settings
from pipeline.stage import StagePlan


@dataclass(frozen=True)
class RunReport:
    """The reports of all stages that ran, in order."""

    recipe: str
    stages: tuple[StageReport, ...]
    snapshot: str
    seconds: float
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def probes(self) -> list[dict[str, Any]]:
        """The probe results, one mapping a number (see the design, section 7)."""
        return [row for report in self.stages for row in report.details.get("probes", [])]

    @property
    def report_path(self) -> str | None:
        """Where the HTML report lies, if a probe stage left one."""
        paths = [report.details.get("report") for report in self.stages if report.details.get("report")]
        return paths[-1] if paths else None

    @property
    def report_snapshot(self) -> str | None:
        """The state of the store that the HTML report was made of."""
        found = [report.snapshot for report in self.stages if report.details.get("report")]
        return found[-1] if found else None

    @property
    def is_partial(self) -> bool:
        """Whether some stage left work undone that should have been done."""
        return any(report.is_partial for report in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints as its last line."""
        return {
            "recipe": self.recipe,
            "did": {report.stage: dict(report.did) for report in self.stages},
            "probes": self.probes,
            "snapshot": self.report_snapshot or self.snapshot,
            "report": self.report_path,
            "seconds": round(self.seconds, 3),
        }


def select_stages(recipe: Recipe, names: Iterable[str] | None = None) -> list[Stage]:
    """Return the stages to run, in their order.

    Parameters
    ----------
    recipe : Recipe
        Stages that it has no section for are left out when `names` is None.
    names : iterable of str, optional
        Exactly these.

    Raises
    ------
    InvalidInputError
        If a named stage does not exist, or the recipe has no section for it.
    """
    if names is None:
        return [stage for stage in STAGES.values() if stage.is_wanted(recipe)]
    wanted = list(names)
    for name in wanted:
        if name not in STAGES:
            raise InvalidInputError(
                f"expected a stage out of {', '.join(STAGES)}, found {name!r}{did_you_mean(name, STAGES)}"
            )
        if not STAGES[name].is_wanted(recipe):
            section = STAGES[name].section
            raise InvalidInputError(
                f"expected a `{section}` section in recipe {recipe.name} for the stage {name}, found none; add one"
            )
    return [stage for stage in STAGES.values() if stage.name in wanted]


def plan_recipe(
    recipe: Recipe, store: FeatureStore, settings: Settings, *, stages: Iterable[str] | None = None, **options: Any
) -> list[StagePlan]:
    """Plan every stage against the store as it is now, for `--dry-run`.

    Returns
    -------
    list of StagePlan
        Products say so where they follow what an earlier stage would change.
    """
    plans: list[StagePlan] = []
    before: list[Standing] = []
    for stage in select_stages(recipe, stages):
        plan = stage.plan(recipe, store, settings, **_options_for(stage, options))
        marked = follow(plan.standings, before)
        before += marked
        plans.append(dataclasses.replace(cast(Any, plan), standings=marked) if marked != plan.standings else plan)
    return plans


def unmet(name: str, recipe: Recipe, store: FeatureStore, settings: Settings) -> str:
    """Return what a stage still waits for that no other stage of this run makes; empty where it can run.

    Parameters
    ----------
    name : str
        The stage.
    recipe, store, settings
        As for :func:`run_recipe`.
    """
    plan = STAGES[name].plan(recipe, store, settings)
    return next((f"{one.product.name}: {one.why}" for one in plan.standings if one.content is None), "")


def run_recipe(
    recipe: Recipe,
    store: FeatureStore,
    settings: Settings,
    *,
    stages: Iterable[str] | None = None,
    on_event: OnEvent = ignore,
    on_plan: Callable[[StagePlan], None] | None = None,
    **options: Any,
) -> RunReport:
    """Run the stages of a recipe in order; each does only what is missing.

    Parameters
    ----------
    recipe : Recipe
    store : FeatureStore
        Open for writing.
    settings : Settings
    stages : iterable of str, optional
        Only these; None: all that the recipe has sections for.
    on_event : callable, optional
        Receives every event of every stage.
    on_plan : callable, optional
        Receives each plan just before it is run.
    **options
        Options of single stages: ``replace`` (catalog), ``shards``, ``retry`` (extract), ``only`` (pretrain, train,
        embed).

    Returns
    -------
    RunReport
    """
    started = time.perf_counter()
    wanted = select_stages(recipe, stages)
    _say_uncatalogued(wanted, recipe, store, settings, on_event)
    with recorded(recipe, store, on_event) as reports:
        for stage in wanted:
            plan = stage.plan(recipe, store, settings, **_options_for(stage, options))
            if on_plan is not None:
                on_plan(plan)
            extra = probe_options(recipe, store, settings) if stage.name == "probe" else {}
            reports.append(stage.run(plan, store, settings, on_event, **extra))
    snapshot = next((r.snapshot for r in reversed(reports) if r.snapshot), "")
    if not snapshot and recipe.dataset.name in store.datasets():
        snapshot = store.dataset(recipe.dataset.name).snapshot()
    return RunReport(recipe.name, tuple(reports), snapshot, time.perf_counter() - started)


def _say_uncatalogued(
    wanted: list[Stage], recipe: Recipe, store: FeatureStore, settings: Settings, on_event: OnEvent
) -> None:
    """Warn where extraction runs without the catalogue before it, and videos are waiting for that."""
    names = [stage.name for stage in wanted]
    if "extract" not in names or "catalog" in names or recipe.dataset.name not in store.datasets():
        return
    from extract.catalog.stage import num_uncatalogued

    if left := num_uncatalogued(recipe, store, settings):
        text = f"{left} videos of the recipe are not in the catalogue and are left out; run `scale catalog` first"
        on_event(Note("extract", text, "warning"))


def _options_for(stage: Stage, options: dict[str, Any]) -> dict[str, Any]:
    known = {
        "catalog": {"replace"},
        "pretrain": {"only"},
        "extract": {"shards", "retry", "targets"},
        "train": {"only"},
        "embed": {"only"},
    }.get(stage.name, set())
    return {name: value for name, value in options.items() if name in known and value is not None}
