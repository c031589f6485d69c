"""The services of docker-compose.yml, started natively: Postgres, Prefect server, bootstrap, workers, schedules."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Scheduled

from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.support.browser import Browser
from tests.support.services import (
    BIN,
    Postgres,
    Services,
    compose_service,
    free_port,
    is_healthy,
    postgres,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.xdist_group("services"), pytest.mark.timeout(600)]

SECRETS = {"POSTGRES_PASSWORD": "only-for-this-test", "PREFECT_AUTH": "scale:only-for-this-test"}
HEARTBEAT_S = 30
"""The shortest that Prefect allows; three missed ones mark a run as crashed."""


class World:
    """Everything that compose would start, on free ports of loopback."""

    def __init__(self, folder: Path, database: Postgres) -> None:
        self.folder = folder
        self.database = database
        port = free_port()
        self.api_url = f"http://127.0.0.1:{port}/api"
        self.rewrite = {
            "@postgres:5432": f"@127.0.0.1:{database.port}",
            "http://prefect-server:4200": f"http://127.0.0.1:{port}",
            "0.0.0.0": "127.0.0.1",
            "4200": str(port),
        }
        self.variables = {**SECRETS, "SCALE_STORE": str(folder / "store")}
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        quick = {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "5",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
            "OMP_NUM_THREADS": "1",
        }
        self.services = Services(folder, {**plain, **quick})

    def start_server(self) -> None:
        self.services.start("server", compose_service("prefect-server", self.variables, self.rewrite))
        wait_until(lambda: is_healthy(self.api_url), timeout_s=90, what="an answer of the Prefect server")

    def client_environment(self, name: str, job: Job | None = None) -> dict[str, str]:
        environment = compose_service(name, self.variables, self.rewrite).environment
        environment.pop("SCALE_HOME")  # /app in the image; the checkout here
        if job is not None:
            environment |= {"SCALE_DATA": str(job.data), "SCALE_STORE": str(job.store), "SCALE_RECIPE": str(job.recipe)}
        return environment

    def deploy(self, job: Job) -> str:
        command = compose_service("bootstrap", self.variables, self.rewrite).command
        done = subprocess.run(
            [BIN / command[0], *command[1:]],
            env={**self.services.environment, **self.client_environment("bootstrap", job)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_worker(self, job: Job, **more: str) -> None:
        service = compose_service("worker-extract", self.variables, self.rewrite)
        environment = self.client_environment("worker-extract", job)
        self.services.start("worker", type(service)(service.command, environment), **more)

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api_url, auth_string=SECRETS["PREFECT_AUTH"])

    def runs(self, deployment: Any) -> list[Any]:
        with self.client() as client:
            chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
            found = client.read_flow_runs(flow_run_filter=chosen)
        return sorted(found, key=lambda run: run.expected_start_time)

    def wait_for(self, run_id: Any, *states: str, timeout_s: float) -> Any:
        def reached() -> Any:
            with self.client() as client:
                run = client.read_flow_run(run_id)
            done = run.state_name in states
            assert done or not run.state.is_final(), f"{run.state_name}: {run.state.message}\n{self.logs()}"
            return run if done else None

        try:
            return wait_until(reached, timeout_s=timeout_s, what=f"the run to be {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.services.log(name)}" for name in ("server", "worker"))

    def schedule(self, deployment: Any, *, seconds_from_now: int, slug: str) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
        entry = DeploymentScheduleCreate(
            schedule=IntervalSchedule(interval=timedelta(hours=6), anchor_date=soon), active=True, slug=slug
        )
        with self.client() as client:
            client.create_deployment_schedules(deployment.id, [(entry.schedule, True)])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with postgres(SECRETS) as database:
        made = World(tmp_path_factory.mktemp("services"), database)
        try:
            made.start_server()
            yield made
        finally:
            made.services.stop_all()


@pytest.fixture
def running(world: World, job: Job) -> Iterator[tuple[World, Any]]:
    """A deployed world with a worker whose environment points at this test's job."""
    world.deploy(job)
    world.start_worker(job)
    with world.client() as client:
        deployment = client.read_deployment_by_name("pipeline/nightly-append")
    yield world, deployment
    if "worker" in world.services.processes:
        world.services.kill("worker")


def start_run(world: World, deployment: Any, **parameters: Any) -> Any:
    with world.client() as client:
        return client.create_flow_run_from_deployment(deployment.id, parameters=parameters, state=Scheduled()).id


def ledger_entries(job: Job) -> set[str]:
    return {str(p.relative_to(job.store)) for p in job.store.glob("set/crops/*/ledger/*/*.parquet")}


def test_the_prefect_page_shows_forms_and_artifacts(running, job: Job, browser: Browser, tmp_path: Path) -> None:
    world, deployment = running
    run_id = start_run(world, deployment, recipe=str(job.recipe))
    world.wait_for(run_id, "Completed", timeout_s=240)
    site = world.api_url.removesuffix("/api")
    shots = Path(os.environ.get("SCALE_SCREENSHOTS", tmp_path))
    with browser.page(width=1280, height=1400) as page:
        page.open(site)
        # The page asks for the API's password once and keeps it in its storage.
        token = base64.b64encode(SECRETS["PREFECT_AUTH"].encode()).decode()
        page.evaluate(f"localStorage.setItem('prefect-password', {token!r})")

        def shows(address: str, *texts: str) -> None:
            page.open(f"{site}{address}")
            wait_until(
                lambda: all(text in page.evaluate("document.body.innerText") for text in texts),
                timeout_s=40,
                what=f"{texts} on {address}; found {page.evaluate('document.body.innerText')[:600]!r}",
            )

        shows(f"/deployments/deployment/{deployment.id}/run", "A path on the worker", "Feature store: folder")
        page.screenshot(shots / "prefect-form.png")
        shows(f"/runs/flow-run/{run_id}?tab=Artifacts", "Artifacts")
        page.screenshot(shots / "prefect-run.png")
        shows("/artifacts", "plan-tiny-extract", "probes-tiny", "html-tiny")
        page.screenshot(shots / "prefect-artifacts.png")


def test_deploying_twice_changes_nothing(world: World, job: Job) -> None:
    assert world.deploy(job) == world.deploy(job)


def test_a_schedule_starts_the_pipeline_and_the_next_one_extracts_only_new_videos(running, job: Job) -> None:
    world, deployment = running
    world.schedule(deployment, seconds_from_now=15, slug="soon")

    def due() -> Any:
        soon = datetime.now(UTC) + timedelta(minutes=5)
        return [run for run in world.runs(deployment) if run.auto_scheduled and run.expected_start_time < soon]

    first = wait_until(due, timeout_s=60, what="a run made by the schedule")[0]
    world.wait_for(first.id, "Completed", timeout_s=180)
    dataset = FeatureStore.open(str(job.store)).dataset("set")
    assert set(dataset.status("grid", "tiny")["status"].to_pylist()) == {"ok"}
    assert dataset.artifacts("reports")
    before = ledger_entries(job)

    job.add_videos("w", [20])
    world.schedule(deployment, seconds_from_now=15, slug="next")
    known = {run.id for run in world.runs(deployment) if run.expected_start_time <= first.expected_start_time}
    second = wait_until(lambda: [r for r in due() if r.id not in known], timeout_s=60, what="the next scheduled run")[0]
    world.wait_for(second.id, "Completed", timeout_s=180)
    added = ledger_entries(job) - before
    assert len(added) == 2, added  # one new shard, two crop sets; nothing else was touched
    assert before <= ledger_entries(job)


def test_a_worker_killed_midway_is_noticed_and_the_next_run_finishes(running, job: Job) -> None:
    world, deployment = running
    job.add_videos("x", [150] * 12)
    run_id = start_run(world, deployment, recipe=str(job.recipe), stages=["catalog", "extract"])
    wait_until(lambda: ledger_entries(job), timeout_s=120, what="the first committed shard")
    world.services.kill("worker")
    for process in _children_with(str(job.recipe.parent)):
        os.kill(process, signal.SIGKILL)
    committed = {entry: (job.store / entry).stat().st_mtime_ns for entry in ledger_entries(job)}
    crashed = world.wait_for(run_id, "Crashed", timeout_s=5 * HEARTBEAT_S)
    assert "heartbeat" in crashed.state.message
    world.start_worker(job)
    again = start_run(world, deployment, recipe=str(job.recipe), stages=["catalog", "extract"])
    world.wait_for(again, "Completed", timeout_s=180)
    dataset = FeatureStore.open(str(job.store)).dataset("set")
    for crops in ("grid", "train4"):
        assert "pending" not in dataset.status(crops, "tiny")["status"].to_pylist()
    # What had been committed was not computed again.
    assert {entry: (job.store / entry).stat().st_mtime_ns for entry in committed} == committed


def _children_with(text: str) -> list[int]:
    """Return the processes of flow runs (in sessions of their own) that work for this test's job."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes().decode(errors="replace")
                command = (folder / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if f"SCALE_RECIPE={text}" in environment and "pytest" not in command:
                found.append(int(folder.name))
    return found


def test_two_triggers_at_once_one_waits(running, job: Job) -> None:
    world, deployment = running
    ids = [start_run(world, deployment, recipe=str(job.recipe)) for _ in range(2)]
    finished = [world.wait_for(run_id, "Completed", timeout_s=240) for run_id in ids]
    first, second = sorted(finished, key=lambda run: run.start_time)
    assert second.start_time >= first.end_time


def test_postgres_restarted_under_a_running_flow(running, job: Job) -> None:
    world, deployment = running
    job.add_videos("y", [120] * 8)
    run_id = start_run(world, deployment, recipe=str(job.recipe), stages=["catalog", "extract"])
    wait_until(lambda: ledger_entries(job), timeout_s=120, what="the first committed shard")
    world.database.control("restart", "-m", "fast")
    run = world.wait_for(run_id, "Completed", "Failed", "Crashed", timeout_s=240)
    if run.state_name != "Completed":  # the run may lose its database; then the next one takes over
        again = start_run(world, deployment, recipe=str(job.recipe), stages=["catalog", "extract"])
        world.wait_for(again, "Completed", timeout_s=240)
    dataset = FeatureStore.open(str(job.store)).dataset("set")
    assert "pending" not in dataset.status("train4", "tiny")["status"].to_pylist()
