"""Few labels: methods equal their definitions, see no other label, and use videos without labels where these help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.errors import InvalidInputError
from pipeline.recipe.probes.semi import SemiProbe
from probe.methods import semi
from probe.semi.propagation import ALPHA, neighbour_graph, propagate
from probe.semi.self_training import surest
from probe.semi.softmax import fit_softmax, probabilities
from probe.semi.task import Task
from tests.probe.test_stage import LINEAR, measure, recipe, store_at

METHODS = semi.METHODS
SPEC = SemiProbe.model_validate({"kind": "semi", "crops": "c", "steps": 60})


def two_arcs(num: int = 80, num_labelled: int = 2, seed: int = 0, wind: float = 1.3) -> tuple[Task, np.ndarray]:
    """Return two bands that wind round each other, labelled at one end, and the truth of test rows.

    At the other end each class lies where the other one began; with `wind` 0 the bands are straight.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(2 * num) % 2
    angle = rng.uniform(0, 2.4, 2 * num)
    angle[: 2 * num_labelled] *= min(1.0, num_labelled / 20)  # few labels: at one end
    side = np.where(y, 0.4, -0.4)
    x = np.stack([np.cos(angle), np.sin(angle), side * np.cos(wind * angle), side * np.sin(wind * angle)], 1)
    x += 0.02 * rng.standard_normal(x.shape)
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    train, test = x[:num], x[num:]
    labelled = np.arange(2 * num_labelled)
    truth = np.eye(2, dtype=bool)[y[labelled]]
    parts = ((train[:, :3], test[:, :3]), (train[:, 1:], test[:, 1:]))
    task = Task(SPEC, train, test, labelled, truth, parts, None, seed)
    return task, y[num:]


def accuracy(name: str, task: Task, truth: np.ndarray) -> float:
    return float((METHODS[name](task).argmax(1) == truth).mean())


def test_softmax_is_the_optimum() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 50)), rng.integers(0, 3, 30)  # fewer rows than channels
    ours = fit_softmax(x, np.eye(3)[y], l2=0.05)
    theirs = LogisticRegression(C=1 / (2 * 0.05 * 30), max_iter=2000, tol=1e-9).fit(x, y)
    np.testing.assert_allclose(probabilities(x, ours), theirs.predict_proba(x), atol=1e-4)


def test_propagation_is_the_closed_form() -> None:
    task, _ = two_arcs(30)
    edges, weights = neighbour_graph(task.train, 4)
    dense = np.zeros((30, 30))
    dense[tuple(edges)] = weights
    assert (dense == dense.T).all()
    scale = 1 / np.sqrt(dense.sum(1))
    exact = (1 - ALPHA) * np.linalg.solve(np.eye(30) - ALPHA * dense * scale[:, None] * scale, task.targets())
    np.testing.assert_allclose(propagate(edges, weights, task.targets()), exact, atol=2e-3)


def test_surest_guesses_are_spread_over_classes() -> None:
    guess = np.array([[0.9, 0.1], [0.8, 0.2], [0.95, 0.05], [0.4, 0.6]])
    assert surest(guess, 2).tolist() == [2, 3]


def test_videos_without_labels_help_where_they_form_bands() -> None:
    task, truth = two_arcs()
    assert accuracy("propagation", task, truth) > 0.9
    assert accuracy("knn", task, truth) < 0.8


@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_learn_are_repeated_and_cope_with_every_label(name: str) -> None:
    task, truth = two_arcs(num_labelled=10, wind=0)
    assert accuracy(name, task, truth) > 0.8
    np.testing.assert_array_equal(METHODS[name](task), METHODS[name](task))
    everything, truth = two_arcs(num_labelled=40)
    assert len(everything.unlabelled) == 0
    assert METHODS[name](everything).shape == (len(truth), 2)


def test_two_learners_see_crops() -> None:
    task, truth = two_arcs(num_labelled=10, wind=0)
    values = np.repeat(task.train[:, None], 3, axis=1)
    with_crops = Task(**{**vars(task), "crops": (values, np.ones(values.shape[:2], bool))})
    assert accuracy("cmpl", with_crops, truth) > 0.8


def test_ltg_needs_two_parts() -> None:
    task, _ = two_arcs()
    with pytest.raises(InvalidInputError, match="two parts"):
        METHODS["ltg"](Task(**{**vars(task), "parts": task.parts[:1]}))


def test_the_probe_reports_every_method_share_and_seed(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    semi = {"kind": "semi", "crops": "c", "fractions": [0.1], "per_class": [2], "num_seeds": 2, "steps": 5}
    report = measure(store, recipe(semi, LINEAR))
    found = [r for r in report.results if r.probe == "semi"]
    assert len({r.id for r in found}) == len(found) == 5 * 2 * 2
    assert {r.protocol for r in found} == {"plain", "knn", "self_training", "propagation", "cmpl"}
    assert {(r.found.n_per_class, r.num_train) for r in found} == {(None, 2), (2, 4)}
    assert all(r.top1 == 1.0 for r in found if r.protocol == "plain")  # two classes far apart
    heads = [r for r in found if r.is_headline]
    assert [r.protocol for r in heads] == ["plain", "knn", "self_training", "propagation", "cmpl"]
    assert heads[0].curves[0].x == (1.0, 2.0)
    pairs = [c for c in report.comparisons if c.a.startswith("semi") and c.b.startswith("semi")]
    assert len(pairs) == 10
