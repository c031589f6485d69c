"""The nights of a deployment: what is new is taken in with the model that stands; nothing is trained again."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from flows.deployments import content_to_deploy, recipe_to_deploy
from flows.runner import run_recipe, unmet
from pipeline import FeatureStore
from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe
from pipeline.settings import Settings
from tests.flows.conftest import Job

ROOT = Path(__file__).resolve().parents[2]
DEPLOYMENTS = {d["name"]: d for d in yaml.safe_load((ROOT / "flows/prefect.yaml").read_text())["deployments"]}
NIGHT = DEPLOYMENTS["nightly-append"]["parameters"]["stages"]


def run(job: Job, stages: list[str] | None = None) -> dict[str, dict[str, int]]:
    store = FeatureStore.open_or_create(str(job.store))
    settings = Settings(data=job.data, store=str(job.store), recipe_dir=job.recipe.parent)
    report = run_recipe(load_recipe(job.recipe), store, settings, stages=stages)
    return {stage.stage: dict(stage.did) for stage in report.stages}


def embedded(job: Job) -> set[str]:
    held = FeatureStore.open(str(job.store)).dataset("set")
    valid = held.select().embeddings("scale").valid.tolist()
    return {video for video, is_valid in zip(held.videos["video_id"].to_pylist(), valid, strict=True) if is_valid}


def test_a_night_embeds_new_videos_with_the_standing_model_and_trains_nothing(job: Job) -> None:
    assert not {"train", "probe"} & set(NIGHT)
    first = run(job)
    assert first["train"]["models_trained"] == 1
    model = FeatureStore.open(str(job.store)).dataset("set").artifact("models", "scale").meta
    job.add_videos("new", [20])
    night = run(job, NIGHT)
    assert night["catalog"]["videos_new"] == 2
    assert "train" not in night
    assert {"a/new000.mp4", "b/new000.mp4"} <= embedded(job)
    again = FeatureStore.open(str(job.store)).dataset("set").artifact("models", "scale").meta
    assert again["weights_sha256"] == model["weights_sha256"]
    assert run(job, NIGHT)["embed"]["shards_done"] == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_night_has_no_model_yet_and_does_the_rest(job: Job, prefect_server, monkeypatch) -> None:
    from flows.pipeline_flow import pipeline

    for name, value in (("SCALE_DATA", job.data), ("SCALE_STORE", job.store)):
        monkeypatch.setenv(name, str(value))
    done = pipeline(str(job.recipe), stages=NIGHT)
    assert done["did"]["extract"]["shards_done"] == 12
    assert "embed" not in done["did"]
    store = FeatureStore.open(str(job.store), mode="a")
    settings = Settings(data=job.data, store=str(job.store))
    assert "until train has run" in unmet("embed", load_recipe(job.recipe), store, settings)
    run(job, ["train"])
    assert unmet("embed", load_recipe(job.recipe), FeatureStore.open(str(job.store)), settings) == ""


def test_no_recipe_no_schedule_and_a_paused_schedule_stays_paused() -> None:
    without = content_to_deploy(None)["deployments"]
    assert not any(d["schedules"] for d in without)
    assert not any("recipe" in d["parameters"] for d in without)
    content = content_to_deploy("/r/mine.yaml", paused=[("nightly-append", "nightly")])
    by_name = {d["name"]: d for d in content["deployments"]}
    assert [s["active"] for s in by_name["nightly-append"]["schedules"]] == [False]
    assert [s["active"] for s in by_name["weekly-verify"]["schedules"]] == [True]
    assert {d["parameters"]["recipe"] for d in content["deployments"] if "recipe" in d["parameters"]} == {
        "/r/mine.yaml"
    }


def test_a_recipe_that_is_not_there_is_an_error_before_anything_is_deployed(job: Job, monkeypatch) -> None:
    assert recipe_to_deploy({}) is None
    assert recipe_to_deploy({"SCALE_RECIPE": " "}) is None
    assert recipe_to_deploy({"SCALE_RECIPE": "demo"}) == "demo"
    assert recipe_to_deploy({"SCALE_RECIPE": str(job.recipe)}) == str(job.recipe)
    monkeypatch.chdir(job.recipe.parent)
    assert recipe_to_deploy({"SCALE_RECIPE": "tiny.yaml"}) == str(job.recipe)
    with pytest.raises(RecipeError, match="expected a recipe file at"):
        recipe_to_deploy({"SCALE_RECIPE": "/nowhere/mine.yaml"})
    job.recipe.write_text(job.recipe.read_text() + "\nsurprise: 1\n")
    with pytest.raises(RecipeError, match="surprise: unknown key"):
        recipe_to_deploy({"SCALE_RECIPE": str(job.recipe)})
