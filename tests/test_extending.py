"""One of each kind from outside the repository: one file, one entry point, nothing of ours touched."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from aggregate.network.saving import load_model
from aggregate.stage import plan_train, run_train
from extract.backbones import describe_backbone, load_backbone
from extract.crops.draw import draw_crops
from extract.crops.policies import VideoFacts
from pipeline.errors import InvalidInputError, RecipeError
from pipeline.exchange.export import write_features
from pipeline.recipe import parse_recipe
from pipeline.recipe.objectives import OBJECTIVES
from pipeline.settings import Settings
from probe import plan_probe, run_probe
from tests.support.outside import installed
from tests.support.toy_training import HERE, recipe, toy

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "extending.md").read_text(encoding="utf-8")


def shown(kind: str) -> tuple[str, str, dict[str, dict[str, str]]]:
    """Return what the page shows of one kind: its module's name and code, and its entry points."""
    part = PAGE.split(f"## {kind}\n")[1].split("\n## ")[0]
    code, entry = (part.split(f"```{language}\n")[1].split("```")[0].strip() for language in ("python", "toml"))
    assert sum(bool(line) for line in code.splitlines()) < 30
    table = tomllib.loads(entry)["project"]["entry-points"]
    module = next(iter(next(iter(table.values())).values())).partition(":")[0]
    points = {group: {name: value.partition(":")[2] for name, value in kinds.items()} for group, kinds in table.items()}
    return module, code, points


@contextmanager
def adding(kind: str, folder: Path) -> Iterator[str]:
    folder.mkdir(exist_ok=True)
    module, code, points = shown(kind)
    with installed(folder, module, code, points):
        assert module not in sys.modules
        yield module


def test_an_objective_from_outside_trains_a_model_and_is_read_back_from_its_recipe(tmp_path):
    with adding("An objective", tmp_path / "site"):
        assert {"scale", "ntxent"} < set(OBJECTIVES.names)
        assert "pull" in OBJECTIVES.names
        recipe()  # of the house's own kinds: nothing from outside is imported
        assert "pulling" not in sys.modules
        chosen = recipe(objective={"kind": "pull", "weight": 2.0})
        assert type(chosen)(**chosen.model_dump(mode="json", by_alias=True)) == chosen
        assert chosen.model_dump(mode="json")["train"]["objective"] == {"kind": "pull", "weight": 2.0}
        store = toy(tmp_path)
        run_train(plan_train(chosen, store, HERE), store, HERE)
        assert load_model(store.dataset("toy"), "scale").dim == 16
        assert plan_train(chosen, store, HERE).is_empty
        other = recipe(objective={"kind": "pull", "weight": 3.0})
        assert not plan_train(other, store, HERE).is_empty
        with pytest.raises(RecipeError, match=r"train\.objective\.weight: .*above 0"):
            recipe(objective={"kind": "pull", "weight": -1})


def test_a_crop_policy_from_outside_draws(tmp_path):
    with adding("A crop policy", tmp_path / "site") as module:
        parsed = parse({"crops": {"c": {"policy": "ends", "num_frames": 8}}})
        assert module in sys.modules
        drawn = draw_crops(parsed.crops["c"], "a", VideoFacts(10.0, 300, 30.0, 64, 48))
        assert drawn.geometry.shape == (2, 9)
        assert drawn.geometry[0, 0] == 0
        assert drawn.geometry[1, 1] == pytest.approx(10.0)
        assert parse(parsed.model_dump(mode="json", by_alias=True), whole=True) == parsed


def test_a_backbone_from_outside_gives_features(tmp_path):
    with adding("A backbone", tmp_path / "site"):
        spec = parse({"backbones": {"x3d_xs": {"kind": "colour", "weights": {"random": 0}}}}).backbones["x3d_xs"]
        assert describe_backbone(spec, Settings()).dim == 3
        backbone = load_backbone(spec, Settings())
        assert torch.equal(backbone(torch.ones(2, 3, 4, 8, 8)), torch.ones(2, 3))


def test_a_probe_from_outside_is_measured_reported_and_read_back(tmp_path):
    with adding("A probe", tmp_path / "site"):
        store = toy(tmp_path, labels=["ab"[n % 2] for n in range(24)])
        content = recipe(embeds=()).model_dump(mode="json", by_alias=True, exclude_none=True)
        wanted = parse_recipe({**content, "probes": [{"kind": "centroid", "crops": "train16"}]})
        report = run_probe(plan_probe(wanted, store, HERE), store, HERE)
        (line,) = report.lines()
        assert line["probe"] == "centroid"
        assert line["figures"]["margin"] >= 0
        assert 0 <= line["top1"] <= 1
        again = run_probe(plan_probe(wanted, store, HERE), store, HERE)
        assert again.lines() == [line]
        assert "centroid" in store.dataset("toy").artifact("reports", "toy").read("report.html").decode()


def test_an_export_from_outside_is_chosen_by_its_suffix(tmp_path):
    selection = toy(tmp_path).dataset("toy").select()
    with pytest.raises(InvalidInputError, match=r"\.npz.*\.h5.*\.parquet"):
        write_features(selection, tmp_path / "x.rows", "train16", "fake")
    with adding("An export format", tmp_path / "site"):
        path = write_features(selection, tmp_path / "x.rows", "train16", "fake")
        assert np.loadtxt(path).shape == (24, 8)
        with pytest.raises(InvalidInputError, match=r"\.npz.*\.rows"):
            write_features(selection, tmp_path / "x.nope", "train16", "fake")


def parse(changes, whole=False):
    content = {
        "name": "tiny",
        "dataset": {"name": "d", "videos": "**/*.mp4"},
        "crops": {"c": {"policy": "grid"}},
        "backbones": {"x3d_xs": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
    }
    return parse_recipe(changes if whole else {**content, **changes})


def test_a_kind_that_nobody_brings_lists_those_that_there_are():
    with pytest.raises(RecipeError, match=r"train\.objective: expected `kind` out of scale, mcm, set, ntxent"):
        recipe(objective={"kind": "pull"})
    for odd in (3, None, ["scale"], {"kind": {}}, {"kind": None}):
        with pytest.raises(RecipeError, match=r"train\.objective"):
            recipe(objective=odd)


@pytest.mark.parametrize(
    ("code", "problem"),
    [("raise RuntimeError('no such card')", "RuntimeError: no such card"), ("PullSpec = 3", "is no ObjectiveBase")],
)
def test_a_broken_package_is_named(tmp_path, code, problem):
    with (
        installed(tmp_path, "broken", code, {"scale.objectives": {"pull": "PullSpec"}}),
        pytest.raises(RecipeError, match=problem),
    ):
        recipe(objective={"kind": "pull"})


def test_a_section_without_code_says_where_code_belongs(tmp_path):
    code = """
        from typing import Literal

        from pipeline.recipe import ObjectiveBase


        class Bare(ObjectiveBase):
            kind: Literal["bare"]
    """
    with installed(tmp_path, "bare", code, {"scale.objectives": {"bare": "Bare"}}):
        store = toy(tmp_path)
        chosen = recipe(objective={"kind": "bare"})
        with pytest.raises(InvalidInputError, match=r"build_objective\.register"):
            run_train(plan_train(chosen, store, HERE), store, HERE)
