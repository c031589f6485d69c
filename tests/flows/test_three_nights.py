"""Three nights of a deployment made from `.env.example`: what came is taken in, and nothing of before is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.artifacts import markdown_table
from pipeline import FeatureStore
from pipeline.products.history import past_runs
from pipeline.store.runs import RunRecord
from tests.flows.conftest import Job
from tests.support.prefect_world import SECRETS, World, running_world
from tests.support.services import ROOT, compose_service

pytestmark = [pytest.mark.soak, pytest.mark.service, pytest.mark.xdist_group("services")]
BLANKS = {**SECRETS, "SCALE_RECIPE": "/recipes/tiny.yaml"}
OPTIONAL = {"SCALE_ROOTS", "S3_ACCESS_KEY", "S3_SECRET_KEY"}
"""Blanks that may stay."""


def filled_in() -> dict[str, str]:
    """Return `.env.example` with its blanks filled, and nothing else touched."""
    lines = re.findall(r"^([A-Z0-9_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    blanks = {name for name, value in lines if not value}
    assert blanks == BLANKS.keys() | OPTIONAL
    return {name: value or BLANKS.get(name, "") for name, value in lines}


@pytest.fixture
def world(tmp_path: Path, job: Job) -> Iterator[World]:
    folder = tmp_path / "services"
    folder.mkdir()
    with running_world(folder) as made:
        made.variables |= filled_in()
        said = compose_service("bootstrap", made.variables, made.rewrite).environment
        assert said["SCALE_RECIPE"] == "/recipes/tiny.yaml"  # the folder of the containers; `job` has it here
        table = made.deploy(job)
        for name, when in (("nightly-append", "0 2 * * *"), ("weekly-train-probe", "0 6 * * 0")):
            (line,) = [text for text in table.splitlines() if name in text]
            assert when in line
            assert made.deployment(f"pipeline/{name}").parameters["recipe"] == str(job.recipe)
        made.start_worker(job)
        made.start("worker-cpu", **made.client_environment("worker-cpu", job))
        yield made
        made.kill_worker(job)


def night(world: World, job: Job) -> list[RunRecord]:
    """Let the nightly schedule come due, then train and measure as a week does; return what both left on record."""
    before = records(job)
    nightly = world.deployment("pipeline/nightly-append")
    world.wait_for(world.run_by_schedule(nightly).id, "Completed", timeout_s=300)
    weekly = world.start_run(world.deployment("pipeline/weekly-train-probe"), job)
    world.wait_for(weekly, "Completed", timeout_s=300)
    return [one for one in records(job) if one.id not in {old.id for old in before}]


def records(job: Job) -> list[RunRecord]:
    if not job.store.exists():
        return []
    return [one.record for one in past_runs(FeatureStore.open(str(job.store)).dataset("set"))]


def test_three_nights_with_new_videos_and_a_broken_one_that_is_mended(world: World, job: Job) -> None:
    mended = job.data / "a" / "v001.mp4"
    whole = mended.read_bytes()
    mended.write_bytes(whole[: len(whole) // 3])  # half copied

    nights = [night(world, job)]
    job.add_videos("new", [21, 25])
    nights.append(night(world, job))
    mended.write_bytes(whole)
    job.add_videos("late", [23])
    nights.append(night(world, job))

    rows: list[dict[str, Any]] = [
        {
            "night": number,
            "run": "append" if "catalog" in one.did else "train and probe",
            **{f"{stage} {name}": one.did.get(stage, {}).get(name, "") for stage, name in COUNTS},
            "models and reports": ", ".join(p for p in one.products if p.startswith(("models/", "reports/"))),
            "seconds": round(one.seconds, 1),
            "ended": one.outcome,
        }
        for number, runs in enumerate(nights, start=1)
        for one in runs
    ]
    print(f"\n{markdown_table(rows)}")

    assert [len(runs) for runs in nights] == [2, 2, 2]
    assert [runs[0].did["catalog"]["videos_new"] for runs in nights] == [12, 4, 2]
    assert nights[0][0].did["catalog"]["videos_unreadable"] == 1
    assert nights[2][0].did["catalog"]["videos_late"] == 1  # the mended one
    ds = FeatureStore.open(str(job.store)).dataset("set")
    status = dict(zip(*(ds.status("grid", "tiny")[c].to_pylist() for c in ("video_id", "status")), strict=True))
    assert status["a/v001.mp4"] == "ok"
    assert set(status.values()) == {"ok"}
    for kind, name in (("models", "scale"), ("reports", "tiny")):
        assert [ds.artifact(kind, f"{name}@{n}").is_whole() for n in (1, 2, 3)] == [True] * 3
    assert [ds.embedding_info(f"scale@{n}").version for n in (1, 2, 3)] == [1, 2, 3]
    measured = [ds.artifact("reports", f"tiny@{n}").meta["snapshot"] for n in (1, 2, 3)]
    assert len(set(measured)) == 3


COUNTS = (
    ("catalog", "videos_new"),
    ("catalog", "videos_unreadable"),
    ("catalog", "videos_late"),
    ("extract", "shards_done"),
    ("extract", "videos_failed"),
    ("train", "models_trained"),
    ("embed", "shards_done"),
    ("probe", "probes_run"),
    ("index", "indexes_built"),
)
