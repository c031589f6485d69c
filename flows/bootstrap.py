"""Make a Prefect server what `flows/prefect.yaml` says: pools, queues, limits, deployments. Safe to run again."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import SetupError, StorageError

ROOT = Path(__file__).resolve().parent.parent
PREFECT_YAML = ROOT / "flows" / "prefect.yaml"


@dataclass(frozen=True)
class Wanted:
    """What the deployment file asks for."""

    pools: dict[str, set[str]] = field(default_factory=dict)
    """Work pool -> its queues."""
    deployments: tuple[str, ...] = ()
    """``flow/deployment`` names are known to the server; these are the deployment parts."""


def read_wanted(path: Path = PREFECT_YAML) -> Wanted:
    """Return the pools, queues and deployments that the file names."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    pools: dict[str, set[str]] = {}
    for deployment in content["deployments"]:
        pool = deployment["work_pool"]
        pools.setdefault(pool["name"], set()).add(pool.get("work_queue_name", "default"))
    return Wanted(pools, tuple(d["name"] for d in content["deployments"]))
