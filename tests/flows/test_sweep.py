"""A grid over a recipe's fields: names by content, everything shared, resumed, one table with pairs, one page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flows.cli import run
from flows.sweep.grid import Point, parse_axis, points_of
from flows.sweep.run import plan_sweep, run_sweep
from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, RecipeError
from pipeline.settings import Settings
from tests.support.stores import make_store

SMALL = {"dim": 16, "num_heads": 2, "head_hidden_dim": 12, "target_hidden_dim": 10, "projection_dim": 6}
CPU = Settings(device="cpu")
NUM = 40


def content(**more: Any) -> dict[str, Any]:
    return {
        "name": "toy",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"c": {"policy": "random", "num_crops": 4}},
        "backbones": {"x3d_xs": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 3}}},
        "train": {"crops": "c", "backbone": "x3d_xs", "epochs": 1, "batch_size": 8, "set_size": 2, "model": SMALL},
        "embed": [{"crops": "c"}],
        "probes": [{"kind": "knn", "crops": "c", "k": [3], "crop_counts": [4], "readouts": ["mean", "cls"]}],
        **more,
    }


def grid(*axes: str, **more: Any) -> list[Point]:
    return points_of(content(**more), [parse_axis(axis) for axis in axes])


def two_splits(folder: Path) -> FeatureStore:
    """Two classes told apart by their features, each video in train of one split and test of the other."""
    labels = ["run", "walk"] * (NUM // 2)
    centres = {"run": np.eye(12)[0], "walk": np.eye(12)[1]}
    rng = np.random.default_rng(0)
    values = np.stack([centres[label] + 0.5 * rng.standard_normal((4, 12)) for label in labels]).astype(np.float32)
    sides = [("train", "test") if i < NUM // 2 else ("test", "train") for i in range(NUM)]
    splits = [{"1": a, "2": b} for a, b in sides]
    return make_store(folder, crops="c", feature_set="x3d_xs", labels=labels, splits=splits, values=values,
                      shard_rows=NUM)  # fmt: skip


def test_values_are_yaml() -> None:
    assert parse_axis("train.epochs=10,20").values == (10, 20)
    assert parse_axis("train.normalise=none").values == ("none",)
    assert parse_axis("train.ema=0.9,null").values == (0.9, None)
    assert parse_axis("train.objective={kind: scale, mask_ratio: 0.5},{kind: vicreg}").values[1] == {"kind": "vicreg"}
    for broken in ("train.epochs", "=3", "train.epochs="):
        with pytest.raises(InvalidInputError, match="FIELD=VALUE"):
            parse_axis(broken)
    with pytest.raises(RecipeError, match="YAML"):
        parse_axis("train.epochs=[1")


def test_names_come_from_what_is_made_so_that_larger_grids_keep_them() -> None:
    small = grid("train.epochs=1,2")
    large = grid("train.epochs=1,2,3", "probes.0.temperature=0.07,0.1")
    assert {one.recipe.name for one in small} < {one.recipe.name for one in large}  # 0.07 is the default
    trained = [next(iter(one.recipe.trainings)) for one in large]
    assert len(set(trained)) == 3  # the probe's temperature trains nothing
    assert trained[0] == trained[1]
    assert large[1].recipe.probes[0].model_dump()["temperature"] == 0.1


def test_a_word_alone_is_set_everywhere_and_averaged() -> None:
    point = grid("split=2", "seed=5", "train.method=vicreg")[0]
    spec = next(iter(point.recipe.trainings.values()))
    assert (spec.split, spec.seed, spec.objective.kind) == ("2", 5, "vicreg")
    assert [(p.split, p.seed) for p in point.recipe.probes] == [("2", 5)]
    assert point.recipe.embed[0].split == "2"
    assert (dict(point.choice), dict(point.repeat)) == ({"train.method": "vicreg"}, {"split": "2", "seed": 5})


def test_stars_reach_every_model_and_embeddings_follow_their_models() -> None:
    spec = content()["train"]
    point = grid("models.*.epochs=4", train=None, models={"a": spec, "b": {**spec, "method": "vicreg"}},
                 embed=[{"crops": "c"}, {"crops": "c", "name": "two", "models": "b", "sets": 2},
                        {"crops": "c", "backbone": "x3d_xs", "readout": "std"}])[0]  # fmt: skip
    assert [m.epochs for m in point.recipe.models.values()] == [4, 4]
    assert sorted(point.embeddings.values()) == ["a", "b", "std", "two"]
    assert set(point.embeddings) == {name for name in point.embeddings if "-" in name}


@pytest.mark.parametrize(
    ("axis", "error", "words"),
    [
        ("trian.epochs=1", RecipeError, "trian"),
        ("train.epohcs=3", RecipeError, "epohcs"),
        ("train.epochs=0", RecipeError, "epochs"),
        ("probes.7.k=[1]", InvalidInputError, "'7'"),
        ("models.*.seed=1", InvalidInputError, "'models"),
        ("crops.c.num_crops=2,4", InvalidInputError, "share their features"),
        (f"train.seed={','.join(map(str, range(1001)))}", InvalidInputError, "1,000 points"),
    ],
)
def test_fields_that_cannot_be_set_are_refused(axis: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        grid(axis)
    with pytest.raises(InvalidInputError, match="every field once"):
        grid("train.epochs=1", "train.epochs=2")


def test_a_grid_is_run_once_paired_and_averaged(tmp_path: Path) -> None:
    store = two_splits(tmp_path)
    axes = ("train.epochs=1,2", "split=1,2")
    first = run_sweep(grid(*axes)[:1], store, CPU, read_videos=False)
    ds = store.dataset("toy")
    weights = {name: ds.artifact("models", name).meta["weights_sha256"] for name in ds.artifacts("models")}
    assert len(weights) == 1
    todo = plan_sweep(grid(*axes), store, CPU)
    assert [line["train"] for line in todo] == ["done", *["1 of 1 to do"] * 3]
    found = run_sweep(grid(*axes), store, CPU, read_videos=False)
    for name, digest in weights.items():  # the first point was not trained again
        assert ds.artifact("models", name).meta["weights_sha256"] == digest
    assert len(ds.artifacts("models")) == 4
    assert not found.failures
    assert {(line.num_runs, line.num_videos) for line in found.lines} == {(2, NUM)}  # both splits, every video once
    assert {(line.num_runs, line.num_videos) for line in first.lines} == {(1, NUM // 2)}
    mean, cls = found.lines[:2]
    assert "mean of the crops" in mean.measured
    assert mean.top1 > 0.9
    assert mean.to_mean is None
    assert mean.to_first is None
    assert cls.to_mean is not None
    assert cls.to_mean.difference == pytest.approx(cls.top1 - mean.top1)
    later = next(line for line in found.lines[2:] if line.measured == mean.measured)
    assert later.to_first is not None
    assert later.to_first.difference == 0  # the mean of the crops does not depend on the training
    assert len(found.table()) == len(found.lines)
    everything = run_sweep(grid(*axes), store, CPU, read_videos=False, headline_only=False)
    assert {line.measured.split(", c/")[0] for line in everything.lines} == {
        "Nearest neighbours, k = 3, T = 0.07", "Nearest neighbours, k = 20, T = 0.07",
        "Nearest neighbours, scale, k = 20, T = 0.07",
    }  # fmt: skip


def test_the_command_goes_on_after_a_point_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two_splits(tmp_path / "store")
    recipe, page = tmp_path / "grid.yaml", tmp_path / "grid.html"
    recipe.write_text(yaml.safe_dump(content()))
    # The features have one stream: MaCLR is refused when it is trained.
    words = ["sweep", str(recipe), "--set", "train.method=vicreg,maclr", "--store", str(tmp_path / "store")]
    assert run([*words, "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["points"]) == 2
    assert run([*words, "--stored", "--device", "cpu", "--html", str(page), "--json"]) == 4
    said = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert [f["point"] for f in said["failures"]] == [{"train.method": "maclr"}]
    assert {line["point"]["train.method"] for line in said["rows"]} == {"vicreg"}
    text = page.read_text()
    assert "maclr" in text
    assert "Points without numbers" in text
