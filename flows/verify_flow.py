"""A scheduled check of every byte of a store against its ledger."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.artifacts import markdown_table
from flows.parameters import Where
from flows.tasks import task
from pipeline import FeatureStore
from pipeline.errors import CorruptDataError

Repair = Annotated[bool, Field(description="Drop what is bad, so that the next extraction redoes it")]


@flow(name="verify", flow_run_name="verify")
def verify(where: Where = Where(), repair: Repair = False) -> dict[str, Any]:
    """Recompute the digests of a whole store; fails when something is wrong and was not repaired.

    Args:
        where: Store, folders and device; what is left empty comes from the worker.
        repair: Drop what is bad, so that the next extraction redoes it.
    """
    report = check_store(where, repair)
    if not report["clean"] and not repair:
        raise CorruptDataError(f"{report['summary']}; see the artifact of this run, then run again with repair")
    return report


@task(name="verify-store")
def check_store(where: Where, repair: bool) -> dict[str, Any]:
    """Verify, leave the table as an artifact, and return the verdict."""
    from pipeline.verify.verify_store import verify_store

    store = FeatureStore.open(where.settings().store, mode="a" if repair else "r")
    report = verify_store(store, repair=repair)
    text = f"## {report.summary()}\n\n{markdown_table(report.table())}"
    create_markdown_artifact(text, key="verify", description="What a check of every byte found")
    return {"clean": report.is_clean, "summary": report.summary()}
