"""One of each kind from outside the repository: one file, one entry point, nothing of ours touched."""

from __future__ import annotations

import sys

import pytest

from aggregate.network.saving import load_model
from aggregate.stage import plan_train, run_train
from pipeline.errors import InvalidInputError, RecipeError
from pipeline.recipe.objectives import OBJECTIVES
from tests.support.outside import installed
from tests.support.toy_training import HERE, recipe, toy

OBJECTIVE = '''
    """Pulls the two sets of a video together."""

    from typing import Literal

    from pydantic import Field

    from aggregate.objectives import Objective, ObjectiveInput, ObjectiveResult, build_objective
    from pipeline.recipe import ObjectiveBase


    class PullSpec(ObjectiveBase):
        """Squared distance of the set tokens."""

        kind: Literal["pull"]
        weight: float = Field(1.0, gt=0)


    class Pull(Objective):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, inputs: ObjectiveInput) -> ObjectiveResult:
            tokens = inputs.main.set_tokens
            loss = self.weight * (tokens[:, 0] - tokens[:, 1]).square().mean()
            return ObjectiveResult(loss, {"pull_loss": loss.detach()})


    @build_objective.register
    def build_pull(spec: PullSpec) -> Objective:
        return Pull(spec.weight)
'''


def test_an_objective_from_outside_trains_a_model_and_is_read_back_from_its_recipe(tmp_path):
    place = tmp_path / "site"
    place.mkdir()
    with installed(place, "pulling", OBJECTIVE, {"scale.objectives": {"pull": "PullSpec"}}):
        assert "pulling" not in sys.modules
        assert OBJECTIVES.names == ("scale", "mcm", "set", "ntxent", "pull")
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
