"""The graph of a recipe: who is made of what, under which names; and how things stand in a store."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.errors import RecipeError
from pipeline.products import (
    Ref,
    differences,
    embedding_products,
    embeddings_read,
    index_products,
    made_from,
    products_of,
    standing,
)
from pipeline.recipe import Recipe, parse_recipe
from tests.support.stores import fill_embeddings, make_store

BACKBONE = {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}


def recipe(**more: Any) -> Recipe:
    content: dict[str, Any] = {
        "name": "r",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"train16": {"policy": "random", "num_crops": 4}, "grid": {"policy": "grid"}},
        "backbones": {"fake": BACKBONE},
        **more,
    }
    return parse_recipe(content)


TWO = {"a": {"features": "train16/fake"}, "b": {"features": ["train16/fake"], "method": "ntxent"}}


def test_the_graph_names_inputs_and_what_follows() -> None:
    whole = recipe(models=TWO, embed=[{"crops": "grid"}], probes=[{"kind": "knn", "crops": "grid"}],
                   indexes=[{"crops": "grid", "readout": "cls", "models": "b"}])  # fmt: skip
    graph = products_of(whole)
    assert [str(p.ref) for p in graph] == [
        "features train16/fake", "features grid/fake", "model a", "model b", "embeddings a", "embeddings b", "report r",
        "index default",
    ]  # fmt: skip
    at = {p.ref: i for i, p in enumerate(graph)}
    assert all(at[ref] < at[p.ref] for p in graph for ref in p.inputs if ref.kind != "videos")
    followers = {str(ref) for ref in made_from(graph, Ref("model", "b"))}
    assert followers == {"embeddings b", "report r", "index default"}
    assert {str(ref) for ref in made_from(graph, Ref("model", "a"))} == {"embeddings a", "report r"}
    assert whole.models["b"].objective.kind == "ntxent"


def test_one_model_as_train_or_among_models_has_one_fingerprint() -> None:
    one, named = recipe(train={"crops": "train16", "backbone": "fake"}), recipe(models={"scale": TWO["a"]})
    assert one.trainings == named.trainings
    dumped = named.models["scale"].model_dump(mode="json")
    assert "features" not in dumped
    assert "method" not in dumped
    assert parse_recipe(named.model_dump(mode="json", by_alias=True)) == named
    assert "models" not in one.model_dump(mode="json")


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ([{"crops": "grid"}], ["a", "b"]),
        ([{"crops": "grid", "name": "x"}], ["x-a", "x-b"]),
        ([{"crops": "grid", "name": "x", "models": "a"}], ["x"]),
        ([{"crops": "grid", "models": "a"}, {"crops": "grid", "name": "m", "readout": "mean"}], ["a", "m-a", "m-b"]),
    ],
)
def test_embedding_sets_have_one_rule_of_names(sections: Any, names: list[str]) -> None:
    assert [one.name for one in embedding_products(recipe(models=TWO, embed=sections))] == names


def test_two_sets_of_one_name_are_refused() -> None:
    twice = recipe(models=TWO, embed=[{"crops": "grid"}, {"crops": "grid", "readout": "mean"}])
    with pytest.raises(RecipeError, match=r"'a' in embed\[0\] and embed\[1\]; give one of them another `name`"):
        products_of(twice)


def test_probes_and_indexes_read_the_models_they_name() -> None:
    whole = recipe(models=TWO, embed=[{"crops": "grid"}, {"crops": "train16", "name": "t"}])
    assert [one.name for one in embeddings_read(whole, "grid", "fake")] == ["a", "b"]
    assert [one.name for one in embeddings_read(whole, "train16", "fake", ("b",))] == ["t-b"]


def test_an_index_of_cls_is_never_built_over_another_readout() -> None:
    """It was built over whatever set bore the model's name."""
    training = {"crops": "train16", "backbone": "fake"}
    joined = {"crops": "grid", "readout": "joined_normalised"}
    wanted = [{"crops": "grid", "readout": "cls"}]
    only_joined = recipe(train=training, embed=[joined], indexes=wanted)
    assert [one.embedding for one in index_products(only_joined)] == [None]
    both = recipe(train=training, embed=[joined, {"crops": "grid", "name": "c"}], indexes=wanted)
    assert [one.embedding for one in index_products(both)] == ["c"]


def test_an_index_without_its_readout_says_what_is_missing(tmp_path) -> None:
    store = make_store(tmp_path / "s", 4, num_crops=4)
    fill_embeddings(store, "scale", np.ones((4, 2), np.float32))
    wanted = recipe(
        train={"crops": "train16", "backbone": "fake"},
        embed=[{"crops": "train16", "readout": "joined_normalised"}],
        indexes=[{"crops": "train16", "readout": "cls"}],
    )
    one = standing(index_products(wanted)[0], store)
    assert one.why == "unknown until embed has run"
    assert "with readout cls of train16/fake" in str(one.waits_for)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"models": TWO, "train": {"crops": "train16", "backbone": "fake"}}, "either train"),
        ({"models": {"a": {"features": "train16"}}}, "expected `crop set/feature set`"),
        ({"models": {"a": {"features": "train16/none"}}}, "none"),
        ({"models": {"a": {"features": ["train16/fake", "grid/fake"]}}}, r"scale takes 1 feature set\(s\), found 2"),
        ({"models": TWO, "embed": [{"crops": "grid", "models": "z"}]}, r"embed\[0\]: expected models out of"),
        ({"models": {"a": {**TWO["a"], "name": "other"}}}, "expected no name but its key"),
        ({"models": {"a": {**TWO["b"], "objective": {"kind": "mcm"}}}}, "as method says"),
    ],
)
def test_mistakes_in_models_are_named(more: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**more)


def test_differences_go_into_lists_of_sections_and_never_into_what_was_not_written() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "list": [{"k": 1}, {"k": 2}]}
    new = {"a": {"b": 2, "c": (1, 2)}, "list": [{"k": 1}, {"k": 3}, {"k": 4}], "later": 5}
    assert [str(change) for change in differences(old, new)] == [
        "a.b 1 → 2", "list[1].k 2 → 3", "list[2] none → {k: 4}",
    ]  # fmt: skip
