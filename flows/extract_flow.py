"""Extraction as a flow: tasks of a few shards each; the store, not Prefect, knows what is missing."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.artifacts import add_rates
from flows.extract_tasks import Networks, extract_shards, load_networks, plan_shards
from flows.parameters import ExtractOptions, RecipeName, Where, run_name
from flows.stage_run import publish, recorded_alone, summary_of
from pipeline.reports import StageReport, merge_reports


@flow(name="extract", flow_run_name=run_name)
def extract(recipe: RecipeName, where: Where = Where(), options: ExtractOptions = ExtractOptions()) -> dict[str, Any]:
    """Decode videos once and store the features of their crops; only shards that are missing.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
        options: Which shards, and on which engine.
    """
    with recorded_alone(recipe, where) as reports:
        report = _extract(recipe, where, options)
        reports.append(report)
    publish(report)
    return summary_of(report)


def _extract(recipe: str, where: Where, options: ExtractOptions) -> StageReport:
    shards = plan_shards(recipe, where, options)
    # A Dask cluster spreads the shards itself; elsewhere tasks of a few shards keep retries fine-grained.
    step = len(shards) or 1 if options.dask else options.shards_per_task
    groups = [shards[i : i + step] for i in range(0, len(shards), step)]
    groups = groups or [options.shards]  # nothing is missing: one look that says what was skipped
    networks = Networks() if options.dask or not shards else load_networks(recipe, where, options)
    reports = [StageReport.model_validate(extract_shards(recipe, where, options, g, networks)) for g in groups]
    report = merge_reports(reports)
    return report.model_copy(update={"details": report.details | {"rates": add_rates(reports)}})
