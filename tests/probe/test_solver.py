"""Linear probes that are solved: scikit-learn's solutions, a choice that never sees test, and who is solved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from pipeline.errors import NoDataError, RecipeError
from pipeline.products.report import SOLVER_VERSION, report_products
from pipeline.recipe import LinearProbe
from pipeline.recipe.probes import trained as recipe_of_trained
from probe.methods.trained import is_solved
from probe.trained import convex
from probe.trained.convex import PathSpec, solve_path
from probe.trained.inputs import Input, prepare
from probe.trained.quasi_newton import minimise
from tests.probe.test_stage import LINEAR, measure, recipe, store_at
from tests.probe.test_training import alone, blobs, one_hot

PENALTIES = recipe_of_trained.LinearProbe.model_fields["penalties"].default


def probabilities(scores_QC: np.ndarray) -> np.ndarray:
    return torch.from_numpy(scores_QC).softmax(dim=1).numpy()


def standardised(train: Input, test: Input) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as the solver sees them; of crops, all valid ones."""
    taken = [side.take(torch.arange(len(side))) for side in prepare(train, test)]
    return tuple((x if valid is None else x[valid]).numpy() for x, valid in taken)  # type: ignore[return-value]


@pytest.mark.parametrize(("num", "dim"), [(120, 20), (40, 90)], ids=["more rows", "more channels"])
@pytest.mark.parametrize("penalty", [0.0001, 0.01, 1.0])
def test_one_penalty_gives_what_scikit_learn_finds(num: int, dim: int, penalty: float) -> None:
    (x, y), (x_test, _) = blobs(0, num, dim=dim), blobs(1, 60, dim=dim)
    found = solve_path(PathSpec((penalty,)), Input.of(x), one_hot(y), alone(num), Input.of(x_test))
    seen, seen_test = standardised(Input.of(x), Input.of(x_test))
    oracle = LogisticRegression(C=1 / (penalty * num), tol=1e-8, max_iter=10_000).fit(seen, y)
    atol = 2e-3 if penalty >= 0.01 else 2e-2  # where the penalty hardly says which of the separating planes it is
    np.testing.assert_allclose(probabilities(found.scores_QC), oracle.predict_proba(seen_test), atol=atol)


def test_without_directions_the_solution_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, y), (x_test, _) = blobs(0, 80, dim=30), blobs(1, 40, dim=30)
    given = (PathSpec((0.02, 0.2)), Input.of(x), one_hot(y), alone(80), Input.of(x_test))
    with_directions = solve_path(*given)
    monkeypatch.setattr(convex, "_directions", lambda rows: (None, rows.square().mean(dim=0)))
    without = solve_path(*given)
    assert without.penalty == with_directions.penalty
    np.testing.assert_allclose(probabilities(without.scores_QC), probabilities(with_directions.scores_QC), atol=2e-3)


def test_many_labels_are_a_regression_each() -> None:
    rng = np.random.default_rng(0)
    x, x_test = rng.standard_normal((150, 8)).astype(np.float32), rng.standard_normal((50, 8)).astype(np.float32)
    truth = np.stack([x[:, 0] + rng.standard_normal(150) > 0, x[:, 1] + 0.5 > 0], axis=1)
    found = solve_path(PathSpec((0.05,)), Input.of(x), truth, alone(150), Input.of(x_test), is_multilabel=True)
    seen, seen_test = standardised(Input.of(x), Input.of(x_test))
    for column in range(2):
        oracle = LogisticRegression(C=1 / (0.05 * 150), tol=1e-8).fit(seen, truth[:, column])
        np.testing.assert_allclose(found.scores_QC[:, column], oracle.decision_function(seen_test), atol=1e-2)


def test_the_crops_of_a_video_weigh_as_one_row_and_their_logits_are_averaged() -> None:
    rng = np.random.default_rng(0)
    (x, y), (x_test, _) = blobs(0, 60), blobs(1, 20)
    crops, test = (np.repeat(a[:, None], 3, 1) + rng.standard_normal((len(a), 3, 20)) for a in (x, x_test))
    valid = np.ones((60, 3), bool)
    valid[::2, 1:] = False
    train = Input.of(crops.astype(np.float32), valid)
    whole = Input.of(test.astype(np.float32), np.ones((20, 3), bool))
    found = solve_path(PathSpec((0.05,)), train, one_hot(y), alone(60), whole)
    seen, seen_test = standardised(train, whole)
    video = np.repeat(np.arange(60), valid.sum(axis=1))
    oracle = LogisticRegression(C=1 / (0.05 * 60), tol=1e-8, max_iter=10_000)
    oracle.fit(seen, y[video], sample_weight=1 / valid.sum(axis=1)[video])
    expected = oracle.decision_function(seen_test).reshape(20, 3, 4).mean(axis=1)
    np.testing.assert_allclose(probabilities(found.scores_QC), probabilities(expected), atol=2e-3)


def test_the_penalty_is_chosen_on_held_out_groups_and_never_on_test() -> None:
    (x, y), (x_test, y_test) = blobs(0, 100, spread=2), blobs(1, 200, spread=2)
    given = (PathSpec(PENALTIES), Input.of(x), one_hot(y), alone(100))
    found = solve_path(*given, Input.of(x_test))
    assert [penalty for penalty, _ in found.heldout_curve] == sorted(PENALTIES)
    assert (
        found.heldout_top1 == max(top1 for _, top1 in found.heldout_curve) == dict(found.heldout_curve)[found.penalty]
    )
    assert "held out by group" in found.chosen_on
    assert (found.scores_QC.argmax(axis=1) == y_test).mean() > 0.6
    part = solve_path(*given, Input.of(x_test[:7]))
    assert part.penalty == found.penalty
    np.testing.assert_allclose(part.scores_QC, found.scores_QC[:7], atol=1e-5)
    assert solve_path(*given, Input.of(x_test[:0])).scores_QC.shape == (0, 4)


def test_where_nothing_can_be_held_out_it_is_the_middle_and_said() -> None:
    x, y = blobs(0, 4)
    found = solve_path(PathSpec(PENALTIES), Input.of(x), one_hot(y), alone(4), Input.of(x))
    assert (found.penalty, found.heldout_top1, found.heldout_curve) == (sorted(PENALTIES)[4], None, ())
    assert "nothing was chosen" in found.chosen_on
    with pytest.raises(NoDataError, match="train rows"):
        solve_path(PathSpec(PENALTIES), Input.of(x[:0]), one_hot(y)[:0], [], Input.of(x))


def test_problems_of_one_batch_end_each_at_its_own_minimum() -> None:
    class Bowls:
        """(x - centre)^4 + curvature (x - centre)^2, without an end for curvature NaN."""

        def __init__(self, centre: torch.Tensor, curvature: torch.Tensor) -> None:
            self.centre, self.curvature = centre, curvature

        def __call__(self, at: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            away, steep = at - self.centre, self.curvature[:, None]
            loss = (away**4 + steep * away**2).sum(dim=1).double()
            return loss, 4 * away**3 + 2 * steep * away

        def some(self, which: torch.Tensor) -> Bowls:
            return Bowls(self.centre[which], self.curvature[which])

    centre = torch.arange(12.0).view(4, 3) / 4
    found = minimise(Bowls(centre, torch.tensor([1.0, 50.0, 0.01, float("nan")])), torch.zeros(4, 3))
    torch.testing.assert_close(found[:2], centre[:2], atol=1e-3, rtol=0)
    torch.testing.assert_close(found[2], centre[2], atol=3e-2, rtol=0)
    assert (found[3] == 0).all()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, True), ({"solver": "lbfgs", "epochs": 5}, True), ({"solver": "adamw"}, False), ({"epochs": 5}, False),
     ({"kind": "mlp"}, False)],
)  # fmt: skip
def test_who_is_solved(given: dict[str, Any], expected: bool) -> None:
    assert LinearProbe.model_validate({"kind": "linear", "crops": "c"} | given).may_be_solved is expected


def test_a_solver_of_other_probes_is_refused() -> None:
    with pytest.raises(RecipeError, match="found lbfgs"):
        recipe({"kind": "attentive", "crops": "c", "solver": "lbfgs"})


def test_a_report_that_is_now_computed_otherwise_is_made_again_and_others_are_not(tmp_path) -> None:
    """Before there was a choice, a report's content named no solver, and all were trained."""
    linear = {"kind": "linear", "crops": "c", "readouts": ["mean"]}
    ds = store_at(tmp_path).dataset("toy")

    def content(**more: Any) -> dict[str, Any]:
        (report,) = report_products(recipe({**linear, **more}))
        (probe,) = report.content(ds)["probes"]
        return dict(probe)

    before = content(solver="adamw")
    assert "solver" not in before
    assert "penalties" not in before
    assert content() == before | {"solver": "auto", "solver_version": SOLVER_VERSION}
    assert content(epochs=5) == before | {"epochs": 5}


def test_a_small_set_is_solved_and_a_larger_one_trained(tmp_path) -> None:
    store = store_at(tmp_path)
    plain = {"kind": "linear", "crops": "c", "readouts": ["mean", "crops"], "num_seeds": 2}
    results = measure(store, recipe(plain)).results
    assert {r.protocol for r in results} == {"selected"}
    assert {(r.readout, r.seed) for r in results} == {
        (readout, seed) for readout in ("mean", "crops") for seed in (0, 1)
    }
    assert all(r.top1 == 1.0 and r.said("selected")["solver"] == "lbfgs" for r in results)
    assert {curve.name for r in results for curve in r.curves} == {"penalty"}
    spec, crops = LinearProbe.model_validate(plain), Input.of(np.ones((24, 4, 2), np.float32), np.ones((24, 4), bool))
    assert is_solved(spec, Input.of(np.ones((95, 2), np.float32)), max_rows=95)
    assert is_solved(spec, crops, max_rows=96)
    assert not is_solved(spec, crops, max_rows=95)  # few enough rows, too many crops
    assert is_solved(spec.model_copy(update={"solver": "lbfgs"}), crops, max_rows=95)
    trained_ones = measure(store, recipe(LINEAR)).results
    assert {r.protocol for r in trained_ones} == {"selected", "last"}
