"""All stages of a recipe, as sub-flows that hand over names and addresses only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.logging import get_run_logger
from pydantic import Field

from flows.artifacts import artifact_key, did_line, run_markdown
from flows.extract_flow import extract
from flows.parameters import ExtractOptions, RecipeName, Where, open_run, run_name
from flows.recording import recorded
from flows.runner import select_stages, unmet
from flows.stage_flows import STAGE_FLOWS
from flows.stage_run import ended, log_note, publish_numbers
from pipeline.reports import StageReport

StageName = Literal["catalog", "pretrain", "extract", "train", "embed", "probe", "index"]
Stages = Annotated[
    tuple[StageName, ...],
    Field(description="Only these stages, in their order; without train, the model that stands is used; empty: all"),
]


@flow(name="pipeline", flow_run_name=run_name)
def pipeline(
    recipe: RecipeName, where: Where = Where(), options: ExtractOptions = ExtractOptions(), stages: Stages = ()
) -> Any:
    """Catalog, pretrain, extract, train, embed, probe and index: only what is missing.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
        options: Which shards, and on which engine.
        stages: Only these stages; empty: all that the recipe asks for.
    """
    loaded, store, _ = open_run(recipe, where)
    with recorded(loaded, store, log_note) as reports:
        for name in [stage.name for stage in select_stages(loaded)]:
            if stages and name not in stages:
                continue
            uses_what_stands = bool(stages) and "train" not in stages and name in ("embed", "index")
            if uses_what_stands and (waits := unmet(name, *open_run(recipe, where))):  # the first night
                get_run_logger().warning("%s left out until a model stands (weekly-train-probe): %s", name, waits)
                continue
            report = extract(recipe, where, options) if name == "extract" else STAGE_FLOWS[name](recipe, where)
            reports.append(StageReport.model_validate(report))
            get_run_logger().info("%s: %s (%.1f s)", name, did_line(reports[-1]), reports[-1].seconds)
    publish_run(reports)
    return ended({"recipe": recipe, "did": {report.stage: report.did for report in reports}}, reports)


def publish_run(reports: Sequence[StageReport]) -> None:
    """Leave on the page of the whole run what its stages did: artifacts of sub-flows are shown on their own pages."""
    if reports:
        recipe = reports[0].recipe
        key, description = artifact_key("run", recipe), f"What a run of {recipe} did, stage by stage"
        create_markdown_artifact(run_markdown(reports), key=key, description=description)
    for report in reports:
        publish_numbers(report)
