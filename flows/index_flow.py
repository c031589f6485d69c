"""The index stage as a flow."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import RecipeName, Where, run_name
from flows.stage_run import run_stage_flow


@flow(name="index", flow_run_name=run_name, validate_parameters=True)
def index(recipe: RecipeName, where: Where = Where()) -> Any:
    """Build the search indexes that the recipe names.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("index", recipe, where)
