"""One stage inside a flow run: plan it, leave the plan as an artifact, run it, leave its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefect import runtime
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.logging import get_run_logger
from prefect.states import Completed

from flows.artifacts import MAX_LINES, artifact_key, page_address, plan_markdown, probe_lines, report_markdown
from flows.listening import RunListener
from flows.parameters import Where, open_run
from flows.recording import recorded
from flows.render import probe_options
from flows.stages import STAGES
from flows.tasks import task
from pipeline.events import Event, Note
from pipeline.printable import printable
from pipeline.reports import StageReport, doubts_of
from pipeline.settings import Settings
from pipeline.stage import StagePlan

MAX_DOUBTS_SHOWN = 3


@task(name="run-stage", task_run_name="{stage}")
def run_stage(stage: str, recipe: str, where: Where) -> dict[str, Any]:
    """Do what is missing of one stage and return its report as JSON.

    Parameters
    ----------
    stage : str
        catalog, train, embed, probe or index. Extraction has a flow of its own, with shard-sized tasks.
    recipe : str
        Path of the recipe, or the name of a shipped one.
    where : Where
    """
    loaded, store, settings = open_run(recipe, where)
    verbs = STAGES[stage]
    if not verbs.is_wanted(loaded):
        return StageReport(stage=stage, recipe=loaded.name).model_dump(mode="json")
    plan = verbs.plan(loaded, store, settings)
    publish_plan(plan, loaded.name)
    with RunListener(f"{stage} of {loaded.name}") as listener:
        extra = probe_options(loaded, store, settings) if stage == "probe" else {}
        report = verbs.run(plan, store, settings, listener, **extra)
    publish(report)
    return summary_of(report)


def run_stage_flow(stage: str, recipe: str, where: Where) -> Any:
    """Run one stage as a flow of its own, or as part of a whole run; return its report as JSON, or as a state."""
    with recorded_alone(recipe, where) as reports:
        report: dict[str, Any] = run_stage(stage, recipe, where)
        reports.append(StageReport.model_validate(report))
    return ended(report, reports)


def ended(value: dict[str, Any], reports: Sequence[StageReport]) -> Any:
    """Return what a flow returns: the value, in a state that says what should not be believed, where there is such."""
    doubts = doubts_of(*reports)
    if not doubts:
        return value
    more = f" (and {len(doubts) - MAX_DOUBTS_SHOWN} more, see the artifact)" if len(doubts) > MAX_DOUBTS_SHOWN else ""
    said = "; ".join(map(printable, doubts[:MAX_DOUBTS_SHOWN]))
    return Completed(message=f"Done, but in doubt: {said}{more}", data=value)


@contextmanager
def recorded_alone(recipe: str, where: Where) -> Iterator[list[StageReport]]:
    """Write a flow down that somebody started by itself; a sub-flow stands in the record of the run it belongs to."""
    if runtime.flow_run.get_parent_flow_run_id() is not None:
        yield []
        return
    loaded, store, _ = open_run(recipe, where)
    with recorded(loaded, store, log_note) as reports:
        yield reports


def log_note(event: Event) -> None:
    """Write a note into the log of the flow run."""
    if isinstance(event, Note):
        get_run_logger().info("%s: %s", event.stage, printable(event.text))


def publish_plan(plan: StagePlan, recipe: str) -> None:
    """Leave a stage's plan as an artifact: what will be done, and why."""
    create_markdown_artifact(
        plan_markdown(plan),
        key=artifact_key("plan", recipe, plan.stage),
        description=f"What {plan.stage} of {recipe} had to do, and why",
    )


def publish(report: StageReport) -> None:
    """Leave a stage's report as an artifact: counts, rates, failures by reason; of a probe also its numbers."""
    create_markdown_artifact(
        report_markdown(report),
        key=artifact_key("report", report.recipe, report.stage),
        description=f"What {report.stage} of {report.recipe} did",
    )
    publish_numbers(report)


def publish_numbers(report: StageReport) -> None:
    """Leave the probe table and the link to the HTML report as artifacts, where a report has them."""
    if probes := report.details.get("probes"):
        key = artifact_key("probes", report.recipe)
        create_table_artifact(probe_lines(probes)[:MAX_LINES], key=key, description=f"Probe numbers of {report.recipe}")
    if path := report.details.get("report"):
        create_link_artifact(
            page_address(report, Settings().pages) or (path if "://" in str(path) else f"file://{path}"),
            key=artifact_key("html", report.recipe),
            link_text=str(path),
            description=f"HTML report of {report.recipe}",
        )


MAX_SKIPPED_RETURNED = 20


def summary_of(report: StageReport) -> dict[str, Any]:
    """Return a report small enough for Prefect's result storage; the whole one is in the store."""
    small = report.model_copy(update={"skipped": report.skipped[:MAX_SKIPPED_RETURNED]})
    return small.model_dump(mode="json", include=set(StageReport.model_fields))
