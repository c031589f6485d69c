"""The probe stage as a flow."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.parameters import RecipeName, Where, run_name
from flows.stage_run import run_stage_flow


@flow(name="probe", flow_run_name=run_name, validate_parameters=True)
def probe(recipe: RecipeName, where: Where = Where()) -> Any:
    """Measure features and embeddings, and write the report.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("probe", recipe, where)
