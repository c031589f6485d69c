"""Make a Prefect server what `flows/prefect.yaml` says: pools, queues, limits, deployments. Safe to run again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import SetupError, StorageError

ROOT = Path(__file__).resolve().parent.parent
PREFECT_YAML = ROOT / "flows" / "prefect.yaml"
ZOMBIE_AUTOMATION = "crash-flow-runs-without-heartbeat"
HEARTBEATS_MISSED = 3
"""A run is called dead after this many missed heartbeats: with Prefect's default of 180 s, nine minutes."""


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


def deploy_all(*, on_line: Callable[[str], None], wait_s: float = 60.0) -> dict[str, Any]:
    """Create or update everything; what is there already is left as it is.

    Parameters
    ----------
    on_line : callable
        Receives one line for each thing that was done.
    wait_s : float, default 60
        How long to wait for the server to answer.

    Returns
    -------
    dict
        ``deployments`` (name -> id) and ``pools``.

    Raises
    ------
    SetupError
        If no server is configured, or it refuses what was asked.
    StorageError
        If the server does not answer within `wait_s`.
    """
    address = os.environ.get("PREFECT_API_URL", "")
    if not address.startswith(("http://", "https://")):
        raise SetupError(
            f"expected PREFECT_API_URL to name a Prefect server, found {address or 'nothing'}; start one "
            "(`make up`, or `prefect server start`) and export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    wanted = read_wanted()
    wait_for_server(wait_s, on_line)
    _ensure_pools(wanted, on_line)
    _ensure_zombie_automation(on_line)
    _deploy(on_line)
    return {"deployments": _read_deployments(), "pools": sorted(wanted.pools)}


def wait_for_server(wait_s: float, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Return once the server answers; say so when that takes a while.

    Raises
    ------
    StorageError
        If it does not within `wait_s`.
    """
    from prefect import get_client

    deadline = time.monotonic() + wait_s
    told = False
    while True:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
        if problem is None:
            return
        if time.monotonic() > deadline:
            raise StorageError(
                f"expected the Prefect server at {os.environ['PREFECT_API_URL']} to answer within {wait_s:.0f} s, "
                f"found {problem!r}; is it running, and is PREFECT_API_AUTH_STRING right?"
            )
        if not told:
            on_line(f"waiting up to {wait_s:.0f} s for the Prefect server at {os.environ['PREFECT_API_URL']}")
            told = True
        time.sleep(1.0)


def _ensure_pools(wanted: Wanted, on_line: Callable[[str], None]) -> None:
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    with get_client(sync_client=True) as client:
        for pool, queues in sorted(wanted.pools.items()):
            try:
                client.read_work_pool(pool)
            except ObjectNotFound:
                try:
                    client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
                    on_line(f"made work pool {pool}")
                except ObjectAlreadyExists:
                    pass  # somebody else deployed at the same moment
            for queue in sorted(queues - {"default"}):
                try:
                    client.read_work_queue_by_name(queue, work_pool_name=pool)
                except ObjectNotFound:
                    client.create_work_queue(name=queue, work_pool_name=pool)
                    on_line(f"made work queue {pool}/{queue}")


def _ensure_zombie_automation(on_line: Callable[[str], None]) -> None:
    """Mark runs crashed whose process died without a word (kill -9, power, out of memory).

    A server of one's own does not do that by itself: the run would stay Running for ever and hold its slot.
    """
    from prefect import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification
    from prefect.settings import get_current_settings

    heartbeat_s = get_current_settings().flows.heartbeat_frequency or 180
    ends = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed")}
    automation = AutomationCore(
        name=ZOMBIE_AUTOMATION,
        description="No heartbeat: the process is gone. The next run finishes what it left.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEATS_MISSED * heartbeat_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the flow run's process is gone.")],
    )
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(ZOMBIE_AUTOMATION)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
            on_line(f"made automation {ZOMBIE_AUTOMATION}")


def _deploy(on_line: Callable[[str], None]) -> None:
    # The deployment file reads SCALE_HOME (the checkout, or the image's folder) and SCALE_RECIPE.
    environment = {"SCALE_HOME": str(ROOT), "SCALE_RECIPE": "demo", **os.environ}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_YAML)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise SetupError("expected the server to take the deployments, found:\n" + "\n".join(lines[-12:]))
    on_line(f"deployed {PREFECT_YAML.relative_to(ROOT)}")


def _read_deployments() -> dict[str, str]:
    from prefect import get_client

    wanted = set(read_wanted().deployments)
    with get_client(sync_client=True) as client:
        found = client.read_deployments()
        return {d.name: str(d.id) for d in found if d.name in wanted}
