"""Run the points of a grid, each only as far as something is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.runner import plan_recipe, run_recipe, select_stages
from flows.sweep.grid import Point
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, PipelineError
from pipeline.events import Note, OnEvent, ignore
from pipeline.settings import Settings
from probe.pages.compare import load_stored_run
from probe.pages.sweep import Failure, Sweep, Trial, sweep_table

READ_ONCE = ("catalog", "extract")


def plan_sweep(points: Sequence[Point], store: FeatureStore, settings: Settings) -> list[dict[str, Any]]:
    """Return what each point would do, as rows of a table.

    A model that several points share counts at the first of them.
    """
    rows, planned = [], set[tuple[str, str]]()
    for point in points:
        row: dict[str, Any] = {**point.choice, **point.repeat}
        for plan in plan_recipe(point.recipe, store, settings, stages=_own_stages(point)):
            todo = {(one.product.kind, one.product.name) for one in plan.standings if not one.is_done} - planned
            planned |= todo
            row[plan.stage] = f"{len(todo)} of {len(plan.standings)} to do" if todo else "done"
        rows.append({**row, "report": point.recipe.name})
    return rows


def run_sweep(
    points: Sequence[Point],
    store: FeatureStore,
    settings: Settings,
    *,
    read_videos: bool = True,
    headline_only: bool = True,
    on_event: OnEvent = ignore,
) -> Sweep:
    """Run every point and put what they measured side by side.

    Parameters
    ----------
    points : sequence of Point
        Of one recipe.
    store : FeatureStore
        Open for writing.
    settings : Settings
    read_videos : bool
        Catalog and extract first, once for all points; without, what the store holds is used.
    headline_only : bool
        As for :func:`probe.pages.sweep.sweep_table`.
    on_event : callable

    Returns
    -------
    Sweep
        A point that fails is in its `failures`, the others go on.

    Raises
    ------
    InvalidInputError
        If the recipe has no probes: there would be nothing to compare.
    """
    if not points or not points[0].recipe.probes:
        raise InvalidInputError("expected a `probes` section in the recipe of a sweep, found none; add one")
    shared = points[0].recipe
    if read_videos:
        wanted = [stage.name for stage in select_stages(shared) if stage.name in READ_ONCE]
        run_recipe(shared, store, settings, stages=wanted, on_event=on_event)
    trials, failures = [], []
    for number, point in enumerate(points, start=1):
        on_event(Note("sweep", f"point {number} of {len(points)}: {point.words}"))
        try:
            run_recipe(point.recipe, store, settings, stages=_own_stages(point), on_event=on_event)
            run = load_stored_run(store, shared.dataset.name, point.recipe.name)
        except PipelineError as err:
            on_event(Note("sweep", f"{point.words}: {err}", "warning"))
            failures.append(Failure({**point.choice, **point.repeat}, str(err)))
            continue
        trials.append(Trial(point.choice, point.repeat, run, point.embeddings))
    return sweep_table(trials, failures, headline_only=headline_only)


def _own_stages(point: Point) -> list[str]:
    return [stage.name for stage in select_stages(point.recipe) if stage.name not in READ_ONCE]
