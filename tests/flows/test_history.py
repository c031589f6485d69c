"""Results stay: one line changed, and before and after can be compared, listed, traced and pruned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import run
from pipeline import FeatureStore
from pipeline.errors import NotFoundError
from pipeline.products.history import older_versions
from tests.flows.conftest import Job, make_job


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory, program: tuple[Path, str]) -> Job:
    """A job that ran with two epochs, then with three."""
    made = make_job(tmp_path_factory.mktemp("history"), program)
    where = ["--data", str(made.data), "--store", str(made.store), "-q"]
    assert run(["run", str(made.recipe), *where]) == 0
    recipe = yaml.safe_load(made.recipe.read_text())
    recipe["train"]["epochs"] = 3
    made.recipe.write_text(yaml.safe_dump(recipe))
    assert run(["run", str(made.recipe), *where]) == 0
    return made


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_before_and_after_are_both_there(capsys, twice: Job) -> None:
    ds = FeatureStore.open(twice.store).dataset("set")
    assert [ds.artifact("models", f"scale@{n}").meta["config"]["epochs"] for n in (1, 2)] == [2, 3]
    assert ds.artifact("reports", "tiny").version == 2
    assert ds.embedding_sets() == ["scale", "scale@1"]
    old, new = (ds.select().embeddings(name) for name in ("scale@1", "scale"))
    assert old.valid.all()
    assert (old.values != new.values).any()
    assert (ds.select().embeddings("scale@2").values == new.values).all()  # a number of its own, as models have
    assert [ds.embedding_info(name).version for name in ("scale@1", "scale@2", "scale")] == [1, 2, 2]
    with pytest.raises(NotFoundError, match="scale@3"):
        ds.select().embeddings("scale@3")
    capsys.readouterr()
    assert run(["compare", "tiny@1", "tiny@2", "--store", str(twice.store), "--json"]) == 0
    differences = {what: (a, b) for what, a, b in last_json(capsys)["differences"]}
    assert differences["recipe.train.epochs"] == ("2", "3")


def test_compare_takes_pages_json_and_names(capsys, twice: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    ds = FeatureStore.open(twice.store).dataset("set")
    page = ds.artifact("reports", "tiny@1").local_path("report.html")
    as_json = ds.artifact("reports", "tiny@2").local_path("report.json")
    monkeypatch.setenv("SCALE_STORE", str(twice.store))
    capsys.readouterr()
    said = []
    for a, b in ((page, as_json), ("tiny@1", "tiny"), (page, as_json.parent)):
        assert run(["compare", str(a), str(b), "--json"]) == 0
        found = last_json(capsys)
        said.append((found["pairs"] if "pairs" in found else found["results"], found["differences"]))
    assert said[0] == said[1] == said[2]


def test_runs_say_what_changed_and_what_came_of_it(capsys, twice: Job) -> None:
    capsys.readouterr()
    assert run(["runs", str(twice.store), "--json"]) == 0
    first, second = last_json(capsys)["runs"][:2]
    assert first["changes"] == []
    assert second["changes"] == [{"field": "train.epochs", "old": 2, "new": 3}]
    assert (first["outcome"], first["did"]["train"]["models_trained"]) == ("done", 1)
    assert "reports/tiny@1" in first["products"]
    assert "reports/tiny@2" in second["products"]
    assert second["numbers"][0]["top1"] is not None
    assert second["seconds"] > 0
    assert all(second[key] for key in ("who", "where", "snapshot"))
    assert run(["runs", str(twice.store)]) == 0
    printed = capsys.readouterr().out
    assert "train.epochs 2 → 3" in printed
    assert "first of its name" in printed


def test_a_run_that_fails_is_written_down_too(capsys, twice: Job, tmp_path: Path) -> None:
    recipe = yaml.safe_load(twice.recipe.read_text())
    recipe |= {"name": "broken", "probes": [{"kind": "knn", "crops": "grid", "split": "none"}]}
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump(recipe))
    assert run(["probe", str(broken), "--data", str(twice.data), "--store", str(twice.store), "-q"]) != 0
    capsys.readouterr()
    assert run(["runs", str(twice.store), "--json"]) == 0
    assert [(r["recipe"], r["outcome"]) for r in last_json(capsys)["runs"]][-1] == ("broken", "NotFoundError")


def test_lineage_walks_from_a_number_to_the_videos(capsys, twice: Job) -> None:
    ds = FeatureStore.open(twice.store).dataset("set")
    report = json.loads(ds.artifact("reports", "tiny").read("report.json"))
    place = next(i for i, r in enumerate(report["results"], start=1) if r["embedding"])
    capsys.readouterr()
    assert run(["lineage", str(twice.store), f"reports/tiny#{place}", "--json"]) == 0
    root = last_json(capsys)
    assert root["top1"] == report["results"][place - 1]["top1"]
    chain = []
    while True:
        chain.append(root["what"])
        if not root["made_of"]:
            break
        root = root["made_of"][0]
    assert chain[1:] == ["embeddings scale", "model scale@2", "features train4/tiny", "videos set"]
    assert root["count"] == 12
    assert len(root["catalogue"]) == 64
    assert run(["lineage", str(twice.store), "models/scale@1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model scale@1: weights sha256 ")
    assert lines[1].startswith("  features train4/tiny: fingerprint ")
    assert run(["lineage", str(twice.store), "reports/tiny@1"]) == 0
    out = capsys.readouterr().out
    assert "embeddings scale@1" in out
    assert "model scale@1" in out
    assert run(["lineage", str(twice.store), "embeddings/scale@2"]) == 0
    assert "model scale@2" in capsys.readouterr().out
    assert run(["lineage", str(twice.store), "indexes/default"]) == 0
    assert "\n  features grid/tiny: fingerprint " in capsys.readouterr().out
    for wrong, said in (("tiny", "reports/NAME"), ("reports/none", "found: tiny"), ("reports/tiny#99", "1..")):
        assert run(["lineage", str(twice.store), wrong]) == 3
        assert said in capsys.readouterr().err


def test_pruning_shows_asks_and_spares(capsys, twice: Job, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(twice.store, tmp_path / "copy")
    ds = FeatureStore.open(copy, mode="a").dataset("set")
    needed = {one.label: one.needed_by for one in older_versions(ds, keep=2)}
    assert needed == {}
    assert run(["prune", str(copy), "--json"]) == 3
    assert "--yes" in capsys.readouterr().err
    assert run(["prune", str(copy), "--yes", "--json"]) == 0
    done = last_json(capsys)
    assert sorted(done["removed"]) == ["embeddings/scale@1", "models/scale@1", "reports/tiny@1"]
    assert done["bytes"] > 0
    ds = FeatureStore.open(copy).dataset("set")
    assert ds.artifact("reports", "tiny").version == 2
    assert ds.embedding_info("scale@2").version == 2  # also when the one before is gone
    assert run(["prune", str(copy), "--yes", "--json"]) == 0
    assert last_json(capsys)["removed"] == []


def test_a_recipe_says_how_many_versions_stay(capsys, twice: Job, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(twice.store, tmp_path / "copy"))
    other = FeatureStore.open(copy, mode="a").dataset("set")
    for n in range(3):
        other.save_artifact("reports", "of-somebody-else", {"report.json": b"%d" % n}, {})
    recipe = yaml.safe_load(twice.recipe.read_text()) | {"keep": 1}
    kept = tmp_path / "kept.yaml"
    kept.write_text(yaml.safe_dump(recipe))
    capsys.readouterr()
    assert run(["run", str(kept), "--data", str(twice.data), "--store", str(copy)]) == 0
    said = capsys.readouterr()
    assert "nothing to do" in said.out
    assert "removed embeddings/scale@1, models/scale@1, reports/tiny@1" in said.err
    ds = FeatureStore.open(copy).dataset("set")
    assert ds.embedding_sets() == ["scale"]
    assert ds.artifact("reports", "of-somebody-else@1").version == 1
    with pytest.raises(NotFoundError):
        ds.artifact("reports", "tiny@1")
