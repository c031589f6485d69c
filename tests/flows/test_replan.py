"""A changed recipe re-runs exactly the stages whose inputs changed; `scale run --dry-run` says which, and why."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import run
from pipeline import FeatureStore
from pipeline.products import index_products, model_products, standings
from pipeline.recipe import load_recipe
from tests.flows.conftest import Job, make_job

UNKNOWN_EXTRACT = "unknown until extract has run"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> Job:
    """A job whose every stage is done; its store is only looked at."""
    made = make_job(tmp_path_factory.mktemp("replan"), program)
    assert run(["run", *on(made), "-q"]) == 0
    return made


def on(job: Job, recipe: Path | None = None) -> list[str]:
    return [str(recipe or job.recipe), "--data", str(job.data), "--store", str(job.store)]


Edit = Callable[[dict[str, Any]], object]


def changed(job: Job, folder: Path, edit: Edit) -> Path:
    recipe = copy.deepcopy(yaml.safe_load(job.recipe.read_text()))
    edit(recipe)
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def planned(capsys: pytest.CaptureFixture[str], job: Job, recipe: Path) -> dict[str, set[str]]:
    """Return the stages that a dry run would do, each with its reasons; the text for people must hold the same."""
    capsys.readouterr()
    assert run(["run", *on(job, recipe), "--dry-run", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["plan"]
    assert [plan["stage"] for plan in plans] == ["catalog", "extract", "train", "embed", "probe", "index"]
    todo = {plan["stage"]: {row["why"] for row in plan["work"]} for plan in plans if not plan["empty"]}
    assert run(["run", *on(job, recipe), "--dry-run"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for reasons in todo.values():
        assert all(reason in printed for reason in reasons)
    return todo


def rename_backbone(recipe: dict[str, Any]) -> None:
    backbone = recipe["backbones"].pop("tiny")
    recipe["backbones"]["tiny2"] = backbone | {"mean": [0.5, 0.5, 0.5]}
    recipe["train"]["backbone"] = "tiny2"


def rename_grid(recipe: dict[str, Any]) -> None:
    recipe["crops"]["grid3"] = recipe["crops"].pop("grid") | {"temporal": 3}
    for section in ("embed", "probes", "indexes"):
        recipe[section][0]["crops"] = "grid3"


CHANGES: Mapping[str, tuple[Edit, Mapping[str, str]]] = {
    "nothing": (lambda r: None, {}),
    "a backbone option, under a new name": (
        rename_backbone,
        {"extract": "new feature set", "train": UNKNOWN_EXTRACT, "embed": UNKNOWN_EXTRACT, "probe": UNKNOWN_EXTRACT,
         "index": UNKNOWN_EXTRACT},
    ),
    "a crop policy, under a new name": (
        rename_grid,
        {"extract": "new feature set", "embed": UNKNOWN_EXTRACT, "probe": UNKNOWN_EXTRACT, "index": UNKNOWN_EXTRACT},
    ),
    "a second backbone beside the first": (
        lambda r: r["backbones"].update(other=r["backbones"]["tiny"] | {"crops": ["train4"], "mean": [0.5] * 3}),
        {"extract": "new feature set"},
    ),
    "a train option": (
        lambda r: r["train"].update(epochs=3),
        {"train": "train.epochs 2 → 3", "embed": "follows model scale", "probe": "follows embeddings scale"},
    ),
    "the readout of the embeddings": (
        lambda r: r["embed"][0].update(readout="joined"),
        {"embed": "embed[0].readout cls → joined",
         "probe": "embed[0].readout cls → joined, follows embeddings scale"},
    ),
    "a probe option": (
        lambda r: r["probes"][0].update(k=[1, 5]),
        {"probe": "probes[0].k [1, 3] → [1, 5]"},
    ),
    "an index option": (lambda r: r["indexes"][0].update(kind="hnsw"), {"index": "indexes[0].kind flat → hnsw"}),
    "what does not change any number": (lambda r: r["train"].update(compile="off", checkpoint_epochs=1), {}),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_dry_run_names_the_stages_and_the_reasons(capsys, done: Job, tmp_path: Path, change: str) -> None:
    edit, expected = CHANGES[change]
    assert planned(capsys, done, changed(done, tmp_path, edit)) == {stage: {why} for stage, why in expected.items()}


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda r: r["backbones"]["tiny"].update(mean=[0.5] * 3), "backbone.mean: stored [0.45, 0.45, 0.45]"),
        (lambda r: r["crops"]["grid"].update(temporal=3), "crops.temporal: stored 2, offered 3"),
    ],
)
def test_features_made_another_way_are_not_mixed_and_the_field_is_named(
    capsys, done: Job, tmp_path: Path, edit: Edit, field: str
) -> None:
    assert run(["run", *on(done, changed(done, tmp_path, edit)), "--dry-run"]) == 3
    said = " ".join(capsys.readouterr().err.split())
    assert field in said
    assert "another name" in said


def test_what_was_planned_is_what_is_done(capsys, tmp_path: Path, program: tuple[Path, str]) -> None:
    job = make_job(tmp_path, program)
    assert run(["run", *on(job), "-q"]) == 0
    job.recipe.write_text(changed(job, tmp_path, CHANGES["a train option"][0]).read_text())
    job.add_videos("w", [20])
    todo = planned(capsys, job, job.recipe)
    assert todo["catalog"] == {"new"}
    assert todo["extract"] == {"follows videos set"}
    assert todo["index"] == {"follows features grid/tiny"}
    assert run(["run", *on(job), "-q", "--json"]) == 0
    did = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["did"]
    done = {stage: {name: n for name, n in counts.items() if n} for stage, counts in did.items()}
    assert done["catalog"]["videos_new"] == 2
    assert (done["extract"]["shards_done"], done["extract"]["shards_skipped"]) == (2, 12)
    assert (done["train"]["models_trained"], done["probe"]["probes_run"], done["index"]["indexes_built"]) == (1, 1, 1)
    assert planned(capsys, job, job.recipe) == {}


def test_other_labels_are_measured_anew_and_nothing_is_made_again(
    done: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done.store, tmp_path / "store")
    job = dataclasses.replace(done, store=tmp_path / "store")
    store, wanted = FeatureStore.open(str(job.store), mode="a"), load_recipe(job.recipe)
    ds = store.dataset(wanted.dataset.name)
    before = ds.snapshot()
    ds.change_labels({0: {"label": "other", "labels": ["other"]}})
    assert ds.snapshot() != before
    assert set(planned(capsys, job, job.recipe)) == {"probe"}
    assert run(["run", *on(job), "-q", "--json"]) == 0
    did = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["did"]
    assert did["train"] == {"models_trained": 0, "models_skipped": 1, "steps": 0}
    assert did["index"]["indexes_built"] == 0
    products = (*model_products(wanted), *index_products(wanted))
    rows = ds.refresh().select("splits['1'] = 'train'").rows.tolist()
    ds.change_labels({rows[0]: {"group": "elsewhere"}})
    assert [one.state for one in standings(products, store)] == ["inputs changed", "done"], "groups are learned from"
    ds.change_labels({rows[0]: {"splits": {"1": "test"}}})
    assert [one.state for one in standings(products, store)] == ["inputs changed", "done"]
    ds.remove_videos([rows[1]])
    assert [one.state for one in standings(products, store)] == ["inputs changed"] * 2
