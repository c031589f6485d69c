"""One flow a stage, each a single task; extraction, which is many, has a file of its own.

Prefect wants a decorated function of its own for each: it reads names, forms and docstrings out of their source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from prefect import flow

from flows.parameters import RecipeName, Where, run_name
from flows.stage_run import run_stage_flow


@flow(name="catalog", flow_run_name=run_name, validate_parameters=True)
def catalog(recipe: RecipeName, where: Where = Where()) -> Any:
    """Find the videos of a recipe and append what is new to the catalogue.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("catalog", recipe, where)


@flow(name="pretrain", flow_run_name=run_name, validate_parameters=True)
def pretrain(recipe: RecipeName, where: Where = Where()) -> Any:
    """Pretrain the recipe's backbones on the videos' pixels; nothing when the same ones are there.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("pretrain", recipe, where)


@flow(name="train", flow_run_name=run_name, validate_parameters=True)
def train(recipe: RecipeName, where: Where = Where()) -> Any:
    """Train the SCALE model on stored features; nothing when the same model is there.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("train", recipe, where)


@flow(name="embed", flow_run_name=run_name, validate_parameters=True)
def embed(recipe: RecipeName, where: Where = Where()) -> Any:
    """Write video embeddings back into the store.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("embed", recipe, where)


@flow(name="probe", flow_run_name=run_name, validate_parameters=True)
def probe(recipe: RecipeName, where: Where = Where()) -> Any:
    """Measure features and embeddings, and write the report.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("probe", recipe, where)


@flow(name="index", flow_run_name=run_name, validate_parameters=True)
def index(recipe: RecipeName, where: Where = Where()) -> Any:
    """Build the search indexes that the recipe names.

    Args:
        recipe: A path on the worker, or the name of a shipped recipe (demo, jhmdb12_mobilenet).
        where: Store, folders and device; what is left empty comes from the worker.
    """
    return run_stage_flow("index", recipe, where)


STAGE_FLOWS: Mapping[str, Callable[[str, Where], Any]] = MappingProxyType(
    {"catalog": catalog, "pretrain": pretrain, "train": train, "embed": embed, "probe": probe, "index": index}
)
