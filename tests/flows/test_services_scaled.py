"""The scaled-out services of docker-compose.scaled.yml, started natively: Redis, API servers, background services."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from pipeline import FeatureStore
from tests.flows.conftest import Job
from tests.support.prefect_world import SECRETS, World, running_world

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.xdist_group("services"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def scaled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_world(tmp_path_factory.mktemp("scaled"), scaled=True) as made:
        yield made


def test_a_schedule_starts_the_pipeline_and_the_next_one_extracts_only_new_videos(scaled: World, job: Job) -> None:
    scaled.deploy(job)
    scaled.start_worker(job)
    try:
        deployment = scaled.deployment("pipeline/everything")
        first = scaled.run_by_schedule(deployment)
        scaled.wait_for(first.id, "Completed", timeout_s=180)
        dataset = FeatureStore.open(str(job.store)).dataset("set")
        assert set(dataset.status("grid", "tiny")["status"].to_pylist()) == {"ok"}
        assert dataset.artifacts("reports")
        before = set(job.store.glob("set/crops/*/ledger/*/*.parquet"))

        job.add_videos("w", [20])
        second = scaled.run_by_schedule(deployment)
        scaled.wait_for(second.id, "Completed", timeout_s=180)
        after = set(job.store.glob("set/crops/*/ledger/*/*.parquet"))
        assert before <= after
        assert len(after - before) == 2  # one new shard, two crop sets; nothing else was touched
    finally:
        scaled.kill_worker(job)
    # Task runs are events of the API server that the other process writes down: they came through Redis.
    with scaled.client() as client:
        runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[first.id])))
    assert {run.state_name for run in runs} == {"Completed"}


def test_any_server_takes_a_run_and_all_of_them_see_it(scaled: World, job: Job) -> None:
    scaled.deploy(job)
    other = SyncPrefectClient(scaled.second_api_url, auth_string=SECRETS["PREFECT_AUTH"])
    with other, scaled.client() as client:
        deployment = other.read_deployment_by_name("catalog/catalog")
        run = other.create_flow_run_from_deployment(deployment.id)
        assert client.read_flow_run(run.id).name == run.name
    # The scheduler works in a process of its own: no server speaks of it.
    for name in ("prefect-server", "prefect-api"):
        assert "scheduler" not in scaled.services.log(name).lower()
    assert scaled.services.processes["prefect-services"].poll() is None
