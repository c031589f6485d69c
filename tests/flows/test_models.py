"""Several models in one recipe: changing one redoes it and what is made from it, no more, and the dry run says so."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import run
from pipeline import FeatureStore
from tests.flows.conftest import Job, make_job

MODELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> Job:
    """A job with three models, their embeddings, one report and an index over the embeddings of `b`; all done."""
    made = make_job(tmp_path_factory.mktemp("models"), program)
    recipe = yaml.safe_load(made.recipe.read_text())
    training = recipe.pop("train")
    inputs = {"features": f"{training.pop('crops')}/{training.pop('backbone')}"}
    recipe["models"] = {name: {**training, **inputs, "seed": seed} for seed, name in enumerate(MODELS)}
    recipe["indexes"] = [{"name": "default", "crops": "grid"},
                         {"name": "of-b", "crops": "grid", "readout": "cls", "models": "b"}]  # fmt: skip
    made.recipe.write_text(yaml.safe_dump(recipe))
    assert run(["run", *on(made), "-q"]) == 0
    return made


def on(job: Job, recipe: Path | None = None) -> list[str]:
    return [str(recipe or job.recipe), "--data", str(job.data), "--store", str(job.store)]


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_changing_one_field_of_one_of_three_models(capsys, done: Job, tmp_path: Path) -> None:
    recipe = copy.deepcopy(yaml.safe_load(done.recipe.read_text()))
    recipe["models"]["b"]["epochs"] = 3
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(recipe))
    ds = FeatureStore.open(done.store).dataset("set")
    before = {name: ds.artifact("models", name).meta["weights_sha256"] for name in MODELS}
    vectors = {name: ds.select().embeddings(name).values.copy() for name in MODELS}

    assert run(["run", *on(done, changed), "--dry-run"]) == 0
    assert "models.b.epochs 2 → 3" in " ".join(capsys.readouterr().out.split())
    assert run(["run", *on(done, changed), "--dry-run", "--json"]) == 0
    products = {(p["kind"], p["name"]): p for p in last_json(capsys)["products"]}
    assert {key: p["why"] for key, p in products.items() if p["state"] != "done" or p["follows"]} == {
        ("model", "b"): "models.b.epochs 2 → 3",
        ("embeddings", "b"): "follows model b",
        ("report", "tiny"): "follows embeddings b",
        ("index", "of-b"): "follows embeddings b",
    }
    assert products["model", "b"]["fields"] == [{"field": "models.b.epochs", "old": 2, "new": 3}]
    assert {p["state"] for p in products.values()} == {"done", "made another way"}

    assert run(["run", *on(done, changed), "-q", "--json"]) == 0
    did = last_json(capsys)["did"]
    assert (did["train"]["models_trained"], did["train"]["models_skipped"]) == (1, 2)
    assert (did["embed"]["shards_done"], did["embed"]["shards_skipped"]) == (6, 12)
    assert (did["extract"]["shards_done"], did["index"]["indexes_built"], did["index"]["indexes_skipped"]) == (0, 1, 1)
    ds = FeatureStore.open(done.store).dataset("set")
    after = {name: ds.artifact("models", name).meta["weights_sha256"] for name in MODELS}
    assert {name for name in MODELS if after[name] != before[name]} == {"b"}
    assert {n for n in MODELS if (ds.select().embeddings(n).values != vectors[n]).any()} == {"b"}
    assert {line["embedding"] for line in report_of(ds)["results"]} == {None, *MODELS}

    assert run(["run", *on(done, changed), "--dry-run", "--json"]) == 0
    assert all(p["state"] == "done" and not p["follows"] for p in last_json(capsys)["products"])
    assert run(["train", *on(done), "--only", "a", "-q", "--json"]) == 0  # b is another one again, a is not
    assert last_json(capsys)["did"]["train"] == {"models_trained": 0, "models_skipped": 1, "steps": 0}
    assert run(["train", *on(done), "--only", "z", "-q"]) == 3
    assert "a, b, c" in capsys.readouterr().err


def report_of(ds: Any) -> dict[str, Any]:
    return json.loads(ds.artifact("reports", "tiny").read("report.json"))
