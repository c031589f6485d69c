"""Make a Prefect server what `flows/prefect.yaml` says: pools, queues, limits, deployments. Safe to run again."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from flows.deployments import (
    PREFECT_YAML,
    RECIPE_VARIABLE,
    ROOT,
    Wanted,
    content_to_deploy,
    describe,
    read_wanted,
    recipe_to_deploy,
)
from pipeline.errors import CredentialsError, SetupError, StorageError

ZOMBIE_AUTOMATION = "crash-flow-runs-without-heartbeat"
HEARTBEATS_MISSED = 3
"""A run is called dead after this many missed heartbeats: with Prefect's default of 180 s, nine minutes."""


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
        ``deployments`` (name -> id), ``table`` (what each runs, on what, when) and ``pools``.

    Raises
    ------
    RecipeError
        If `SCALE_RECIPE` names a recipe that is not there, or does not validate.
    SetupError
        If no server is configured, or it refuses what was asked.
    CredentialsError
        If it does not accept PREFECT_API_AUTH_STRING.
    StorageError
        If the server does not answer within `wait_s`.
    """
    address = os.environ.get("PREFECT_API_URL", "")
    if not address.startswith(("http://", "https://")):
        raise SetupError(
            f"expected PREFECT_API_URL to name a Prefect server, found {address or 'nothing'}; start one "
            "(`make up`, or `prefect server start`) and export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    wanted, recipe = read_wanted(), recipe_to_deploy()
    wait_for_server(wait_s, on_line)
    check_password()
    _ensure_pools(wanted, on_line)
    _ensure_zombie_automation(on_line)
    paused = _paused_schedules(wanted)
    content = content_to_deploy(recipe, paused)
    _deploy(content, on_line)
    _remove_schedules(wanted, content, on_line)
    if recipe is None:
        on_line(
            f"no recipe, no schedule: {RECIPE_VARIABLE} is empty. Set it to your recipe (in .env, or export it), then "
            "run `scale deploy` again; until then each run by hand is given its recipe"
        )
    for name, slug in paused:
        on_line(f"the schedule {slug} of {name} stays paused")
    rows = [describe(deployment) for deployment in _read_deployments(wanted)]
    return {
        "deployments": {row["deployment"]: row["id"] for row in rows},
        "table": rows,
        "pools": sorted(wanted.pools),
    }


def check_password() -> None:
    """Raise CredentialsError unless the server accepts PREFECT_API_AUTH_STRING; its health tells anybody."""
    from prefect import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pools(limit=1)
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in (401, 403):
                raise
            raise CredentialsError(
                f"expected the Prefect server at {os.environ['PREFECT_API_URL']} to accept PREFECT_API_AUTH_STRING, it "
                "was refused; set it to the server's user:password (PREFECT_AUTH in .env)"
            ) from error


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


def _deploy(content: dict[str, Any], on_line: Callable[[str], None]) -> None:
    # The deployment file reads SCALE_HOME: the checkout, or the image's folder.
    environment = {"SCALE_HOME": str(ROOT), **os.environ}
    with tempfile.TemporaryDirectory(prefix="scale-deploy-") as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise SetupError("expected the server to take the deployments, found:\n" + "\n".join(lines[-12:]))
    on_line(f"deployed {PREFECT_YAML.relative_to(ROOT)}")


def _read_deployments(wanted: Wanted) -> list[Any]:
    from prefect import get_client

    with get_client(sync_client=True) as client:
        found = {d.name: d for d in client.read_deployments()}
    return [found[name] for name in wanted.deployments if name in found]


def _remove_schedules(wanted: Wanted, content: dict[str, Any], on_line: Callable[[str], None]) -> None:
    """Remove schedules that the file does not name any more: Prefect keeps those of a deployment that has none now."""
    from prefect import get_client

    named = {
        (deployment["name"], schedule.get("slug"))
        for deployment in content["deployments"]
        for schedule in deployment.get("schedules") or ()
    }
    with get_client(sync_client=True) as client:
        for deployment in _read_deployments(wanted):
            for schedule in deployment.schedules:
                if (deployment.name, schedule.slug) not in named:
                    client.delete_deployment_schedule(deployment.id, schedule.id)
                    on_line(f"removed the schedule {schedule.slug or schedule.id} of {deployment.name}")


def _paused_schedules(wanted: Wanted) -> list[tuple[str, str]]:
    return [
        (deployment.name, schedule.slug)
        for deployment in _read_deployments(wanted)
        for schedule in deployment.schedules
        if not schedule.active and schedule.slug
    ]
