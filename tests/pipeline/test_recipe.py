"""Recipes: complete, named, and strict about every key."""

from pathlib import Path

import pytest
import yaml

from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "flows" / "recipes").glob("*.yaml"))


def minimal(**changes):
    content = {
        "name": "tiny",
        "dataset": {"name": "d", "videos": "**/*.mp4"},
        "crops": {"grid": {"policy": "grid", "temporal": 2, "spatial": 1}},
        "backbones": {"x3d_xs": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
    }
    return {**content, **changes}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_every_shipped_recipe_validates(path):
    recipe = load_recipe(path)
    assert recipe.targets()


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.name)
def test_a_recipe_survives_json(path):
    recipe = load_recipe(path)
    assert parse_recipe(recipe.model_dump(mode="json", by_alias=True)) == recipe


def test_targets_cover_crops_times_streams():
    backbone = {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}, "streams": ["rgb", "tgrad"]}
    recipe = parse_recipe(minimal(backbones={"x": backbone}))
    assert [t.label for t in recipe.targets()] == ["grid/x", "grid/x-tgrad"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, "unknown: unknown key"),
        ({"name": "../x"}, "expected a name"),
        ({"crops": {}}, "crops"),
        ({"dataset": {"name": "d"}}, "dataset.videos: expected a value"),
        ({"dataset": {"name": "d", "videos": "x", "vidoes": "y"}}, "dataset.vidoes: unknown key"),
        ({"crops": {"g": {"policy": "grid", "num_frames": 0}}}, "num_frames"),
        ({"crops": {"g": {"policy": "gird"}}}, "gird"),
        ({"embed": [{"crops": "grid"}]}, "embed needs a train section"),
        ({"probes": [{"kind": "knn", "crops": "nope"}]}, r"probes\[0\]: expected crops to be one of \['grid'\]"),
        ({"train": {"crops": "grid", "backbone": "nope"}}, r"train: expected backbone to be one of \['x3d_xs'\]"),
        (
            {"backbones": {"e": {"kind": "exported", "weights": {"path": "a.pt2", "sha256": "zz"}}}},
            "sha256",
        ),
    ],
)
def test_mistakes_are_named_with_their_place(change, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe(minimal(**change))


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text", "a: [1,", "", "!!python/object/apply:os.system ['true']"])
def test_files_that_are_no_recipe(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="expected"):
        load_recipe(path)


def test_absent_and_binary_and_huge_files(tmp_path):
    with pytest.raises(RecipeError, match="found none"):
        load_recipe(tmp_path / "none.yaml")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(binary)
    huge = tmp_path / "h.yaml"
    huge.write_bytes(b"#" * (1 << 21))
    with pytest.raises(RecipeError, match="at most"):
        load_recipe(huge)


def test_recipes_are_frozen():
    recipe = parse_recipe(yaml.safe_load(yaml.safe_dump(minimal())))
    with pytest.raises(Exception, match="frozen"):
        recipe.name = "other"
