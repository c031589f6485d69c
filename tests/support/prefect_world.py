"""A whole Prefect installation for tests and benchmarks: what docker-compose.yml starts, natively, on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Scheduled

from tests.support.services import BIN, Postgres, Services, compose_service, free_port, is_healthy, postgres, wait_until

SECRETS = {
    "POSTGRES_PASSWORD": "only-for-this-test",
    "PREFECT_AUTH": "scale:only-for-this-test",
    "REDIS_PASSWORD": "only-for-this-test",
    "SERVE_TOKEN": "only-for-this-test",
}
HEARTBEAT_S = 30
"""The shortest that Prefect allows; three missed ones mark a run as crashed."""


class Job(Protocol):
    """Where a recipe, its videos and its store are."""

    @property
    def recipe(self) -> Path: ...
    @property
    def data(self) -> Path: ...
    @property
    def store(self) -> Path: ...


class World:
    """Everything that compose would start, on free ports of loopback.

    Parameters
    ----------
    folder : Path
        For logs and Prefect's own files.
    database : Postgres
    scaled : bool, default False
        Read docker-compose.scaled.yml on top: Redis, background services in a process of their own.
    """

    def __init__(self, folder: Path, database: Postgres, *, scaled: bool = False) -> None:
        self.folder = folder
        self.database = database
        self.files = ("docker-compose.yml", "docker-compose.scaled.yml")[: 2 if scaled else 1]
        port = free_port()
        self.api_url = f"http://127.0.0.1:{port}/api"
        redis, dask = str(free_port()), str(free_port())
        self.dask_address = f"tcp://127.0.0.1:{dask}"
        self.second_api_url = ""
        """Of the second server, where there are several."""
        self.rewrite = {
            "@postgres:5432": f"@127.0.0.1:{database.port}",
            "http://prefect-server:4200": f"http://127.0.0.1:{port}",
            "@redis:6379": f"@127.0.0.1:{redis}",
            "6379": redis,
            "tcp://dask-scheduler:8786": self.dask_address,
            "8786": dask,
            ":8787": ":0",
            "0.0.0.0": "127.0.0.1",
            "4200": str(port),
        }
        self.variables = {**SECRETS, "SCALE_STORE": str(folder / "store")}
        self.is_deployed = False
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        quick = {
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "5",
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
            "OMP_NUM_THREADS": "1",
        }
        self.services = Services(folder, {**plain, **quick})

    def start(self, name: str, **more: str) -> subprocess.Popen[bytes]:
        """Start a service as the compose file says."""
        return self.services.start(name, compose_service(name, self.variables, self.rewrite, self.files), **more)

    def start_server(self) -> None:
        if len(self.files) > 1:
            self.start("redis")
            migration = self.start("migrate")
            assert migration.wait(timeout=120) == 0, self.services.log("migrate")
            self.start("prefect-services")
        self.start("prefect-server")
        wait_until(lambda: is_healthy(self.api_url), timeout_s=90, what="an answer of the Prefect server")
        if len(self.files) > 1:  # as the compose file says, after the first one
            port = str(free_port())
            more = compose_service("prefect-api", self.variables, {**self.rewrite, "4200": port}, self.files)
            self.services.start("prefect-api", more)
            self.second_api_url = f"http://127.0.0.1:{port}/api"
            wait_until(lambda: is_healthy(self.second_api_url), timeout_s=90, what="an answer of the second server")

    def client_environment(self, name: str, job: Job) -> dict[str, str]:
        environment = compose_service(name, self.variables, self.rewrite, self.files).environment
        environment.pop("SCALE_HOME")  # /app in the image; the checkout here
        where = {"SCALE_DATA": str(job.data), "SCALE_STORE": str(job.store), "SCALE_RECIPE": str(job.recipe)}
        return environment | where

    def call(self, command: list[str], job: Job, *, cwd: Path | None = None) -> str:
        """Run a command to its end with the environment of `bootstrap`; return what it printed."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env={**self.services.environment, **self.client_environment("bootstrap", job)},
            cwd=cwd or self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, job: Job) -> str:
        said = self.call(compose_service("bootstrap", self.variables, self.rewrite, self.files).command, job)
        self.is_deployed = True
        return said

    def start_worker(self, job: Job, **more: str) -> None:
        self.start("worker-extract", **self.client_environment("worker-extract", job) | more)

    def start_dask(self, job: Job) -> str:
        """Start the scheduler and one worker of Dask; return the address that a run takes."""
        self.start("dask-scheduler")
        self.start("dask-worker", **self.client_environment("dask-worker", job))
        return self.dask_address

    def kill_worker(self, job: Job) -> None:
        """End this job's workers and flow runs at once, as a power cut would."""
        for name in ("worker-extract", "dask-worker", "dask-scheduler"):
            if name in self.services.processes:
                self.services.kill(name)
        for process in _flow_processes(job):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def client(self) -> SyncPrefectClient:
        return SyncPrefectClient(self.api_url, auth_string=SECRETS["PREFECT_AUTH"])

    def deployment(self, name: str) -> Any:
        with self.client() as client:
            return client.read_deployment_by_name(name)

    def start_run(self, deployment: Any, job: Job, **parameters: Any) -> UUID:
        given = {"recipe": str(job.recipe), **parameters}
        with self.client() as client:
            return client.create_flow_run_from_deployment(deployment.id, parameters=given, state=Scheduled()).id

    def runs(self, deployment: Any) -> list[Any]:
        with self.client() as client:
            chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
            found = client.read_flow_runs(flow_run_filter=chosen)
        return sorted(found, key=lambda run: run.expected_start_time)

    def run_by_schedule(self, deployment: Any, *, seconds_from_now: int = 10) -> Any:
        """Add a schedule that is due soon, and return the run that the server's scheduler makes of it."""
        known = {run.id for run in self.runs(deployment)}
        soon = datetime.now(UTC) + timedelta(seconds=seconds_from_now)
        with self.client() as client:
            rhythm = IntervalSchedule(interval=timedelta(hours=6), anchor_date=soon)
            client.create_deployment_schedules(deployment.id, [(rhythm, True)])

        def due() -> Any:
            runs = self.runs(deployment)
            return [r for r in runs if r.id not in known and r.auto_scheduled and r.expected_start_time <= soon]

        return wait_until(due, timeout_s=60, what="a run made by the schedule")[0]

    def wait_for(self, run_id: Any, *states: str, timeout_s: float) -> Any:
        def reached() -> Any:
            with self.client() as client:
                run = client.read_flow_run(run_id)
            done = run.state_name in states
            assert done or not run.state.is_final(), f"{run.state_name}: {run.state.message}"
            return run if done else None

        try:
            return wait_until(reached, timeout_s=timeout_s, what=f"the run to be {' or '.join(states)}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self) -> str:
        return "\n".join(f"--- {name}\n{self.services.log(name)}" for name in self.services.processes)


@contextmanager
def running_world(folder: Path, *, scaled: bool = False) -> Iterator[World]:
    """Start Postgres and the Prefect server; stop everything afterwards."""
    with postgres(SECRETS) as database:
        world = World(folder, database, scaled=scaled)
        try:
            world.start_server()
            yield world
        finally:
            world.services.stop_all()


def _flow_processes(job: Job) -> list[int]:
    """Return the processes of flow runs (in sessions of their own) that work for this job."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if f"SCALE_RECIPE={job.recipe}".encode() in environment and b"pytest" not in command:
                found.append(int(folder.name))
    return found
