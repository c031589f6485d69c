"""What a Prefect server is to hold: `flows/prefect.yaml`, with the user's recipe and schedules as people left them."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.parameters import find_recipe
from pipeline.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PREFECT_YAML = ROOT / "flows" / "prefect.yaml"
RECIPE_VARIABLE = "SCALE_RECIPE"


@dataclass(frozen=True)
class Wanted:
    """What the deployment file asks for."""

    pools: dict[str, set[str]]
    """Work pool -> its queues."""
    deployments: tuple[str, ...]


def read_wanted(path: Path = PREFECT_YAML) -> Wanted:
    """Return the pools, queues and deployments that the file names."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    pools: dict[str, set[str]] = {}
    for deployment in content["deployments"]:
        pool = deployment["work_pool"]
        pools.setdefault(pool["name"], set()).add(pool.get("work_queue_name", "default"))
    return Wanted(pools, tuple(d["name"] for d in content["deployments"]))


def recipe_to_deploy(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the recipe that `SCALE_RECIPE` names, checked; None where it names none.

    Raises
    ------
    RecipeError
        If there is no such file, or it does not validate: a night must not find that out.
    """
    given = environment.get(RECIPE_VARIABLE, "").strip()
    if not given:
        return None
    path = find_recipe(given)
    load_recipe(path)
    return given if path != Path(given) else str(Path(given).absolute())


def content_to_deploy(recipe: str | None, paused: Iterable[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return the content of the deployment file for this server.

    Parameters
    ----------
    recipe : str or None
        Without one nothing is scheduled, and runs by hand must be given theirs.
    paused : iterable of (str, str)
        Deployment and slug of the schedules that somebody paused on the server: they stay so.
    """
    content = copy.deepcopy(yaml.safe_load(PREFECT_YAML.read_text(encoding="utf-8")))
    still = set(paused)
    for deployment in content["deployments"]:
        parameters = deployment.setdefault("parameters", {})
        if recipe is None:
            parameters.pop("recipe", None)
            deployment["schedules"] = []
        elif "recipe" in parameters:
            parameters["recipe"] = recipe
        for schedule in deployment.get("schedules", []):
            if (deployment["name"], schedule["slug"]) in still:
                schedule["active"] = False
    return content


def describe(deployment: Any, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return one row of the table of deployments: what it runs, on what, when.

    Parameters
    ----------
    deployment : DeploymentResponse
        As the server has it.
    environment : mapping
        Of whoever deploys; a worker's own may differ, and says so.
    """
    where = deployment.parameters.get("where") or {}

    def place(name: str) -> str:
        variable = f"SCALE_{name.upper()}"
        return where.get(name) or (f"{environment[variable]} (here)" if environment.get(variable) else f"${variable}")

    schedules = [
        f"{getattr(s.schedule, 'cron', None) or 'other'}{'' if s.active else ' (paused)'}" for s in deployment.schedules
    ]
    takes_recipe = deployment.name != "weekly-verify"
    return {
        "deployment": deployment.name,
        "recipe": str(deployment.parameters.get("recipe") or ("given with each run" if takes_recipe else "-")),
        "data": place("data"),
        "store": place("store"),
        "schedule": ", ".join(schedules) or "-",
        "id": str(deployment.id),
    }
