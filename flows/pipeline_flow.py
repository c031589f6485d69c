"""All stages of a recipe, as sub-flows that hand over names and addresses only."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.catalog_flow import catalog
from flows.embed_flow import embed
from flows.extract_flow import extract
from flows.index_flow import index
from flows.parameters import ExtractOptions, RecipeName, Where, find_recipe
from flows.probe_flow import probe
from flows.runner import select_stages
from flows.train_flow import train
from pipeline.recipe import load_recipe


@flow(name="pipeline", flow_run_name="pipeline-{recipe}")
def pipeline(recipe: RecipeName, where: Where = Where(), options: ExtractOptions = ExtractOptions()) -> dict[str, Any]:
    """Catalog, extract, train, embed, probe and index: only what is missing."""
    wanted = {stage.name for stage in select_stages(load_recipe(find_recipe(recipe)))}
    did: dict[str, Any] = {"catalog": catalog(recipe, where)["did"]}
    did["extract"] = extract(recipe, where, options)["did"]
    for name, stage in (("train", train), ("embed", embed), ("probe", probe), ("index", index)):
        if name in wanted:
            did[name] = stage(recipe, where)["did"]
    return {"recipe": recipe, "did": did}
