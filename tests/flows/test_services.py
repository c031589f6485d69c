"""The services of docker-compose.yml, started natively: Postgres, Prefect server, bootstrap, workers, schedules."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.parameters import find_recipe
from pipeline import FeatureStore
from probe.pages.compare import load_stored_run
from tests.flows.conftest import Job
from tests.support.browser import Browser
from tests.support.clips import hold_back, link_clips, read_clips
from tests.support.prefect_world import HEARTBEAT_S, SECRETS, World
from tests.support.services import BIN, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.xdist_group("services"), pytest.mark.timeout(600)]


@pytest.fixture
def running(world: World, job: Job) -> Iterator[tuple[World, Any]]:
    """A deployed world with a worker whose environment points at this test's job; runs are given its recipe."""
    if not world.is_deployed:
        world.deploy(job)
    world.start_worker(job)
    yield world, world.deployment("pipeline/everything")
    world.kill_worker(job)


def ledger_entries(job: Job) -> dict[str, int]:
    """Return each committed shard's ledger entry and the time it was written."""
    return {str(p.relative_to(job.store)): p.stat().st_mtime_ns for p in job.store.glob("*/crops/*/ledger/*/*.parquet")}


def statuses(job: Job) -> set[str]:
    dataset = FeatureStore.open(str(job.store)).dataset("set")
    return {s for crops in ("grid", "train4") for s in dataset.status(crops, "tiny")["status"].to_pylist()}


def test_the_prefect_page_shows_forms_and_artifacts(running, job: Job, browser: Browser, tmp_path: Path) -> None:
    world, deployment = running
    (job.data / "a" / "text.mp4").write_text("this is no video")
    run_id = world.start_run(deployment, job)
    world.wait_for(run_id, "Completed", timeout_s=240)
    site = world.api_url.removesuffix("/api")
    shots = Path(os.environ.get("SCALE_SCREENSHOTS", tmp_path))
    with browser.page(width=1280, height=1400) as page:
        page.open(site)
        # The page asks for the API's password once and keeps it in its storage.
        token = base64.b64encode(SECRETS["PREFECT_AUTH"].encode()).decode()
        page.evaluate(f"localStorage.setItem('prefect-password', {token!r})")

        def shows(*texts: str) -> None:
            wait_until(
                lambda: all(text in page.evaluate("document.body.innerText") for text in texts),
                timeout_s=40,
                what=f"{texts}; found {page.evaluate('document.body.innerText')[:600]!r}",
            )

        page.open(f"{site}/deployments/deployment/{deployment.id}/run")
        shows("A path on the worker", "Feature store: folder", "Decoding workers")
        page.screenshot(shots / "prefect-form.png")
        page.open(f"{site}/runs/flow-run/{run_id}")
        shows("pipeline-tiny", "extract: 14 shards done")
        page.screenshot(shots / "prefect-run.png")
        page.evaluate("document.getElementById('artifacts').click()")  # the tab
        shows("run-tiny", "probes-tiny", "html-tiny")
        page.screenshot(shots / "prefect-run-artifacts.png")
        with world.client() as client:
            artifacts = {artifact.key: artifact.id for artifact in client.read_artifacts()}
        for key, *texts in (
            ("run-tiny", "1 models trained", "k=3 T=0.07 centring=train"),
            ("plan-tiny-extract", "new feature set"),
            ("report-tiny-extract", "Throughput", "frames", "not a video", "snapshot"),
            ("html-tiny", "/reports/tiny/report-"),
        ):
            page.open(f"{site}/artifacts/artifact/{artifacts[key]}")
            shows(*texts)
            page.screenshot(shots / f"prefect-{key}.png")
        page.open(f"{site}/artifacts")
        shows("plan-tiny-extract", "probes-tiny", "html-tiny")
        page.screenshot(shots / "prefect-artifacts.png")


def test_deploying_twice_changes_nothing(world: World, job: Job) -> None:
    assert world.deploy(job) == world.deploy(job)


@pytest.mark.timeout(1800)  # every deployment asks the server ten times over
def test_what_people_paused_stays_paused_and_the_table_shows_what_runs_on_what(world: World, job: Job) -> None:
    world.deploy(job)
    nightly = world.deployment("pipeline/nightly-append")
    (schedule,) = [s for s in nightly.schedules if s.slug == "nightly"]
    assert schedule.active
    with world.client() as client:
        client.update_deployment_schedule(nightly.id, schedule.id, active=False)
    table = world.deploy(job)
    (kept,) = [s for s in world.deployment("pipeline/nightly-append").schedules if s.slug == "nightly"]
    assert not kept.active
    assert "(paused)" in table
    with world.client() as client:
        client.update_deployment_schedule(nightly.id, kept.id, active=True)
    assert "(paused)" not in world.deploy(job)


@pytest.mark.timeout(1800)
def test_deploying_with_a_wrong_password_or_without_a_recipe(world: World, job: Job) -> None:
    environment = {**world.services.environment, **world.client_environment("bootstrap", job)}

    def scale(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(BIN / "scale"), *arguments], env=environment | more, cwd=world.folder,
                              capture_output=True, text=True, check=False)  # fmt: skip

    refused = scale("deploy", PREFECT_API_AUTH_STRING="scale:wrong")
    assert refused.returncode == 3, refused.stderr
    assert "to accept PREFECT_API_AUTH_STRING, it was refused" in " ".join(refused.stderr.split())
    assert "Traceback" not in refused.stderr
    looked = scale("doctor", str(job.store), "--json", PREFECT_API_AUTH_STRING="scale:wrong")
    (finding,) = [f for f in json.loads(looked.stdout) if f["check"] == "prefect api"]
    assert (finding["result"], "refuses the password" in finding["found"]) == ("fail", True)
    gone = scale("deploy", SCALE_RECIPE="/nowhere/mine.yaml")
    assert gone.returncode == 3
    assert "expected a recipe file at /nowhere/mine.yaml" in " ".join(gone.stderr.split())
    try:
        none = scale("deploy", SCALE_RECIPE="")
        assert none.returncode == 0, none.stderr
        assert "no recipe, no schedule" in none.stderr
        assert world.deployment("pipeline/nightly-append").schedules == []
    finally:
        table = scale("deploy", "--json").stdout
    rows = {row["deployment"]: row for row in json.loads(table)["table"]}
    assert rows["nightly-append"]["recipe"] == str(job.recipe)
    assert rows["nightly-append"]["schedule"] == "0 2 * * *"
    assert rows["nightly-append"]["store"].startswith(str(job.store))


def own_weights(job: Job, folder: Path) -> Path:
    """Give the job's recipe a weights file of its own, which a test may take away."""
    content = yaml.safe_load(job.recipe.read_text())
    weights = content["backbones"]["tiny"]["weights"]
    own = Path(shutil.copy(weights["path"], folder / "own.pt2"))
    weights["path"] = str(own)
    job.recipe.write_text(yaml.safe_dump(content))
    return own


def with_fewer_crops(name: str, folder: Path) -> Path:
    """Write a shipped recipe with a quarter of its crops: all clips, all stages, and minutes less of the network."""
    content = yaml.safe_load(find_recipe(name).read_text())
    content["crops"]["train16"]["num_crops"] = 4
    content["crops"]["grid5x3"] |= {"temporal": 3, "spatial": 1}
    content["train"]["set_size"] = 2
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.shared_data
@pytest.mark.timeout(2000)  # most of it is extraction, which shares the cores with whatever else runs
def test_real_clips_by_schedule_and_the_next_run_extracts_only_new_ones(
    world: World, shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "jhmdb12"
    clips = read_clips(source)
    job = Job(with_fewer_crops("jhmdb12_mobilenet", tmp_path), tmp_path / "data", tmp_path / "store")
    link_clips(source, job.data, hold_back(clips, per_class=2))
    world.deploy(job)
    # Nothing else computes for this run, so that it may use every core.
    world.start_worker(job, SCALE_WEIGHTS=str(shared_data / "weights"), OMP_NUM_THREADS=str(os.cpu_count()))
    try:
        deployment = world.deployment("pipeline/everything")
        world.wait_for(world.run_by_schedule(deployment).id, "Completed", timeout_s=1200)
        before = ledger_entries(job)
        assert len(before) == 12  # 192 clips, in shards of 32, in two crop sets
        link_clips(source, job.data, clips)
        world.wait_for(world.run_by_schedule(deployment).id, "Completed", timeout_s=500)
    finally:
        world.kill_worker(job)
    after = ledger_entries(job)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[2] for name in set(after) - set(before)} == {"train16", "grid5x3"}
    assert len(after) == 14
    store = FeatureStore.open(str(job.store))
    assert store.dataset("jhmdb12").status("grid5x3", "mobilenet_v2")["status"].to_pylist() == ["ok"] * len(clips)
    results = load_stored_run(store, "jhmdb12", "jhmdb12-mobilenet").report.results
    knn = [r for r in results if (r.probe, r.readout, r.said("k"), r.said("temperature")) == ("knn", "mean", 20, 0.07)]
    linear = [r for r in results if (r.probe, r.readout) == ("linear", "mean")]
    assert knn
    assert linear
    for number in (*knn, *linear):
        assert number.used == 72
        assert number.top1 >= 0.6, number


def test_a_worker_killed_midway_is_noticed_and_the_next_run_finishes(running, job: Job) -> None:
    world, deployment = running
    job.add_videos("x", [150] * 12)
    run_id = world.start_run(deployment, job, stages=["catalog", "extract"])
    wait_until(lambda: ledger_entries(job), timeout_s=120, what="the first committed shard")
    world.kill_worker(job)
    committed = ledger_entries(job)
    crashed = world.wait_for(run_id, "Crashed", timeout_s=5 * HEARTBEAT_S)
    assert "heartbeat" in crashed.state.message
    world.start_worker(job)
    again = world.start_run(deployment, job, stages=["catalog", "extract"])
    world.wait_for(again, "Completed", timeout_s=180)
    assert statuses(job) == {"ok"}
    assert {name: ledger_entries(job)[name] for name in committed} == committed  # nothing was computed again


def test_three_ways_to_run_a_stage_again_and_each_does_only_what_is_missing(running, job: Job, tmp_path: Path) -> None:
    world, _ = running
    program = own_weights(job, tmp_path)
    # On the machine of the store, without a server.
    world.call(["scale", "catalog", str(job.recipe)], job)
    world.call(["scale", "extract", str(job.recipe), "--shards", "0,3"], job)
    by_hand = ledger_entries(job)
    assert len(by_hand) == 4  # two crop sets
    # The stage's deployment, which fails: the weights are gone for a moment.
    program.rename(tmp_path / "away.pt2")
    deployed = ["prefect", "deployment", "run", "extract/extract", "-p", f"recipe={job.recipe}"]
    shards = json.dumps({"shards": [0, 1]})
    world.call([*deployed, "-p", f"options={shards}"], job)
    run_id = world.runs(world.deployment("extract/extract"))[-1].id
    failed = world.wait_for(run_id, "Failed", timeout_s=120)
    assert "own.pt2" in failed.state.message
    assert ledger_entries(job) == by_hand
    # The same run again, with the parameters it had.
    (tmp_path / "away.pt2").rename(program)
    world.call(["prefect", "flow-run", "retry", str(run_id)], job)
    assert world.wait_for(run_id, "Completed", timeout_s=120).run_count == 2
    retried = ledger_entries(job)
    assert len(retried) == 6
    world.call(deployed, job)
    last = world.runs(world.deployment("extract/extract"))[-1].id
    world.wait_for(last, "Completed", timeout_s=120)
    assert statuses(job) == {"ok"}
    assert len(ledger_entries(job)) == 12
    assert {name: ledger_entries(job)[name] for name in retried} == retried
    assert {name: ledger_entries(job)[name] for name in by_hand} == by_hand


def test_a_failed_pipeline_is_retried_and_stages_that_were_done_do_nothing(running, job: Job, tmp_path: Path) -> None:
    world, deployment = running
    program = own_weights(job, tmp_path)
    world.wait_for(world.start_run(deployment, job, stages=["catalog"]), "Completed", timeout_s=240)
    catalogue = FeatureStore.open(str(job.store)).dataset("set").videos
    program.rename(tmp_path / "away.pt2")
    run_id = world.start_run(deployment, job)
    world.wait_for(run_id, "Failed", timeout_s=120)
    (tmp_path / "away.pt2").rename(program)
    world.call(["prefect", "flow-run", "retry", str(run_id)], job)
    world.wait_for(run_id, "Completed", timeout_s=240)
    dataset = FeatureStore.open(str(job.store)).dataset("set")
    assert dataset.videos.equals(catalogue)
    assert statuses(job) == {"ok"}
    assert dataset.artifacts("reports")


def test_a_cancelled_run_leaves_the_store_clean_and_the_next_one_does_not_wait(running, job: Job) -> None:
    world, deployment = running
    job.add_videos("x", [150] * 12)
    run_id = world.start_run(deployment, job, stages=["catalog", "extract"], options={"shards_per_task": 1})
    wait_until(lambda: ledger_entries(job), timeout_s=120, what="the first committed shard")
    world.call(["prefect", "flow-run", "cancel", str(run_id)], job)
    world.wait_for(run_id, "Cancelled", timeout_s=90)
    committed = ledger_entries(job)
    assert 0 < len(committed) < 36
    world.call(["scale", "verify", str(job.store)], job)  # fails when something is torn
    # Claims were given back: nobody waits the minutes until they expire.
    started = time.monotonic()
    world.call(["scale", "extract", str(job.recipe)], job)
    assert time.monotonic() - started < 120
    assert statuses(job) == {"ok"}
    assert {name: ledger_entries(job)[name] for name in committed} == committed


def test_two_triggers_at_once_one_waits(running, job: Job) -> None:
    world, deployment = running
    ids = [world.start_run(deployment, job) for _ in range(2)]
    finished = [world.wait_for(run_id, "Completed", timeout_s=240) for run_id in ids]
    first, second = sorted(finished, key=lambda run: run.start_time)
    assert second.start_time >= first.end_time


def test_postgres_restarted_under_a_running_flow(running, job: Job) -> None:
    world, deployment = running
    job.add_videos("y", [120] * 8)
    run_id = world.start_run(deployment, job, stages=["catalog", "extract"])
    wait_until(lambda: ledger_entries(job), timeout_s=120, what="the first committed shard")
    world.database.control("restart", "-m", "fast")
    run = world.wait_for(run_id, "Completed", "Failed", "Crashed", timeout_s=240)
    if run.state_name != "Completed":  # the run may lose its database; then the next one takes over
        again = world.start_run(deployment, job, stages=["catalog", "extract"])
        world.wait_for(again, "Completed", timeout_s=240)
    assert statuses(job) == {"ok"}


def test_extraction_on_the_dask_services(running, job: Job) -> None:
    world, deployment = running
    address = world.start_dask(job)
    run_id = world.start_run(deployment, job, stages=["catalog", "extract"], options={"dask": address})
    world.wait_for(run_id, "Completed", timeout_s=180)
    assert statuses(job) == {"ok"}
    assert len(ledger_entries(job)) == 12
