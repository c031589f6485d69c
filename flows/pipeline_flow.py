"""All stages of a recipe, as sub-flows that hand over names and addresses only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from flows.catalog_flow import catalog
from flows.embed_flow import embed
from flows.extract_flow import extract
from flows.index_flow import index
from flows.parameters import ExtractOptions, RecipeName, Where, find_recipe
from flows.probe_flow import probe
from flows.runner import select_stages
from flows.train_flow import train
from pipeline.recipe import load_recipe

StageName = Literal["catalog", "extract", "train", "embed", "probe", "index"]
Stages = Annotated[list[StageName] | None, Field(description="Only these stages; empty: all the recipe asks for")]

SUBFLOWS = {"catalog": catalog, "train": train, "embed": embed, "probe": probe, "index": index}


@flow(name="pipeline", flow_run_name="pipeline-{recipe}")
def pipeline(
    recipe: RecipeName, where: Where = Where(), options: ExtractOptions = ExtractOptions(), stages: Stages = None
) -> dict[str, Any]:
    """Catalog, extract, train, embed, probe and index: only what is missing.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
        options: Which shards, and on which engine.
        stages: Only these stages; empty: all that the recipe asks for.
    """
    wanted = [stage.name for stage in select_stages(load_recipe(find_recipe(recipe)))]
    did: dict[str, Any] = {}
    for name in wanted:
        if stages is not None and name not in stages:
            continue
        report = extract(recipe, where, options) if name == "extract" else SUBFLOWS[name](recipe, where)
        did[name] = report["did"]
    return {"recipe": recipe, "did": did}
