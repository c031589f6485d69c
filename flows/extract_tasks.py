"""The tasks of the extract flow: plan, load the networks once, extract a few shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.listening import RunListener
from flows.parameters import ExtractOptions, Where, open_run
from flows.stage_run import publish_plan
from flows.tasks import task
from pipeline.reports import StageReport

if TYPE_CHECKING:
    from extract.backbones import Backbone


class Networks:
    """Loaded backbones, handed from task to task of one process. A plain object: Prefect does not look into it."""

    def __init__(self) -> None:
        self.by_name: dict[str, Backbone] = {}


@task(name="plan-extract")
def plan_shards(recipe: str, where: Where, options: ExtractOptions) -> list[int]:
    """Ask the store what is missing, leave the plan as an artifact, return the shard numbers."""
    from extract.run.stage import plan_extract

    loaded, store, settings = open_run(recipe, where, dask=options.dask)
    plan = plan_extract(loaded, store, settings, shards=options.shards or None, retry=tuple(options.retry_statuses))
    publish_plan(plan, loaded.name)
    return [shard.shard for shard in plan.shards]


@task(name="load-backbones")
def load_networks(recipe: str, where: Where, options: ExtractOptions) -> Networks:
    """Load the backbones once for all tasks; whether a faster form repays is decided by all that is missing."""
    from extract.backbones import load_backbone, say_uncompiled_once
    from extract.run.plan import plan_extract
    from pipeline.compute.devices import pick_device

    loaded, store, settings = open_run(recipe, where)
    plan = plan_extract(loaded, store, settings, shards=options.shards or None, retry=tuple(options.retry_statuses))
    networks = Networks()
    with RunListener(f"backbones of {loaded.name}") as listener:
        tell = say_uncompiled_once(listener)
        for name, spec in {target.target.backbone: target.spec for target in plan.targets}.items():
            networks.by_name[name] = load_backbone(
                spec,
                settings,
                pick_device(settings.device),
                expected_crops=plan.num_crops_lacking(name),
                on_event=tell,
                as_before=plan.ways.get(name),
            )
    return networks


@task(name="extract-shards", task_run_name="shards {shards}")
def extract_shards(
    recipe: str, where: Where, options: ExtractOptions, shards: list[int], networks: Networks
) -> dict[str, Any]:
    """Extract these shards; what another worker finished meanwhile is skipped."""
    from extract.run.stage import plan_extract, run_extract

    loaded, store, settings = open_run(recipe, where, dask=options.dask)
    plan = plan_extract(loaded, store, settings, shards=shards or None, retry=tuple(options.retry_statuses))
    with RunListener(f"extract of {loaded.name}, shards {shards or 'all'}") as listener:
        report = run_extract(plan, store, settings, on_event=listener, backbones=networks.by_name)
    return report.model_dump(mode="json", include=set(StageReport.model_fields))
