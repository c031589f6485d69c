"""Extraction as a flow: tasks of a few shards each; the store, not Prefect, knows what is missing."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.artifacts import add_rates
from flows.listening import RunListener
from flows.parameters import ExtractOptions, RecipeName, Where, open_run, run_name
from flows.stage_run import publish, publish_plan, summary_of
from flows.tasks import task
from pipeline.reports import StageReport, merge_reports


@flow(name="extract", flow_run_name=run_name)
def extract(recipe: RecipeName, where: Where = Where(), options: ExtractOptions = ExtractOptions()) -> dict[str, Any]:
    """Decode videos once and store the features of their crops; only shards that are missing.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
        options: Which shards, and on which engine.
    """
    shards = plan_shards(recipe, where, options)
    # A Dask cluster spreads the shards itself; elsewhere tasks of a few shards keep retries fine-grained.
    step = len(shards) or 1 if options.dask else options.shards_per_task
    groups = [shards[i : i + step] for i in range(0, len(shards), step)]
    groups = groups or [options.shards]  # nothing is missing: one look that says what was skipped
    reports = [StageReport.model_validate(extract_shards(recipe, where, options, group)) for group in groups]
    report = merge_reports(reports)
    report = report.model_copy(update={"details": report.details | {"rates": add_rates(reports)}})
    publish(report)
    return summary_of(report)


@task(name="plan-extract")
def plan_shards(recipe: str, where: Where, options: ExtractOptions) -> list[int]:
    """Ask the store what is missing, leave the plan as an artifact, return the shard numbers."""
    from extract.stage import plan_extract

    loaded, store, settings = open_run(recipe, where, dask=options.dask)
    plan = plan_extract(loaded, store, settings, shards=options.shards or None, retry=tuple(options.retry_statuses))
    publish_plan(plan, loaded.name)
    return [shard.shard for shard in plan.shards]


@task(name="extract-shards", task_run_name="shards {shards}")
def extract_shards(recipe: str, where: Where, options: ExtractOptions, shards: list[int]) -> dict[str, Any]:
    """Extract these shards; what another worker finished meanwhile is skipped."""
    from extract.stage import plan_extract, run_extract

    loaded, store, settings = open_run(recipe, where, dask=options.dask)
    plan = plan_extract(loaded, store, settings, shards=shards or None, retry=tuple(options.retry_statuses))
    with RunListener(f"extract of {loaded.name}, shards {shards or 'all'}") as listener:
        report = run_extract(plan, store, settings, on_event=listener)
    return report.model_dump(mode="json", include=set(StageReport.model_fields))
