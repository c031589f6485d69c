"""kNN votes: by hand, against a slow twin, and on the awkward galleries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidInputError, ShapeMismatchError
from probe.maths.exact_search import Neighbours, nearest
from probe.maths.knn import centre, run_knn, vote_grid


def one_hot(classes: list[int] | np.ndarray, num_classes: int) -> np.ndarray:
    return np.eye(num_classes, dtype=bool)[np.asarray(classes)]


def neighbours(similarity: list[list[float]], index: list[list[int]]) -> Neighbours:
    return Neighbours(np.array(similarity, float), np.array(index, np.int64))


def test_votes_by_hand() -> None:
    """Three neighbours of classes 0, 1, 1 at cosine .9, .8, .7 and T = .1: e^0 = 1 against e^-1 + e^-2 = .503."""
    found = neighbours([[0.9, 0.8, 0.7]], [[0, 1, 2]])
    targets = one_hot([0, 1, 1], 2)
    grid = {(p.temperature, p.k): p for p in vote_grid(found, targets, (1, 2, 3), (0.1, 10.0))}
    sharp = grid[0.1, 3]
    np.testing.assert_allclose(sharp.scores_QC, [[1.0, math.exp(-1) + math.exp(-2)]])
    assert sharp.predicted_Q.tolist() == [0]
    # At T = 10 the weights are nearly alike, and two outvote one.
    assert grid[10.0, 3].predicted_Q.tolist() == [1]
    assert grid[10.0, 2].predicted_Q.tolist() == [0]  # e^0 against e^-.01
    assert grid[0.1, 1].predicted_Q.tolist() == [0]


def test_a_tie_goes_to_the_class_of_the_nearer_neighbour() -> None:
    """Classes 2 and 0 have one neighbour each at the same similarity: rank decides, not the number of the class."""
    found = neighbours([[0.5, 0.5]], [[7, 3]])
    targets = np.zeros((8, 3), bool)
    targets[7, 2] = targets[3, 0] = True
    assert vote_grid(found, targets, (2,), (0.07,))[0].predicted_Q.tolist() == [2]
    swapped = neighbours([[0.5, 0.5]], [[3, 7]])
    assert vote_grid(swapped, targets, (2,), (0.07,))[0].predicted_Q.tolist() == [0]


def test_a_neighbour_with_two_tied_classes_gives_the_lower_one() -> None:
    targets = np.array([[False, True, True]])
    assert vote_grid(neighbours([[0.5]], [[0]]), targets, (1,), (0.07,))[0].predicted_Q.tolist() == [1]


def test_tiny_temperatures_do_not_overflow() -> None:
    found = neighbours([[0.9, 0.1]], [[0, 1]])
    point = vote_grid(found, one_hot([0, 1], 2), (2,), (1e-6,))[0]
    np.testing.assert_array_equal(point.scores_QC, [[1.0, 0.0]])


def slow_knn(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, k: int, temperature: float, num: int
) -> list[int]:
    """Brute force, one query at a time, with the rules as the documentation states them."""
    train = train / np.linalg.norm(train, axis=1, keepdims=True)
    test = test / np.linalg.norm(test, axis=1, keepdims=True)
    predictions = []
    for query in test.astype(np.float32):
        scores = np.round(train.astype(np.float32).astype(np.float64) @ query.astype(np.float64), 6)
        order = np.lexsort((np.arange(len(scores)), -scores))[:k]
        votes = [0.0] * num
        for i in order:
            votes[labels[i]] += math.exp((scores[i] - scores[order[0]]) / temperature)
        best = max(votes)
        tied = [c for c in range(num) if votes[c] >= best * (1 - 1e-12)]
        predictions.append(next(int(labels[i]) for i in order if labels[i] in tied))
    return predictions


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 30), num=st.integers(1, 4), copies=st.booleans())
def test_equals_a_brute_force_twin(seed: int, k: int, num: int, copies: bool) -> None:
    rng = np.random.default_rng(seed)
    train, test = rng.standard_normal((25, 5)).astype(np.float32), rng.standard_normal((12, 5)).astype(np.float32)
    if copies:
        train = train[rng.integers(0, 6, 25)]
    labels = rng.integers(0, num, 25)
    points, _ = run_knn(train, test, one_hot(labels, num), ks=(k,), temperatures=(0.07,), centring="none")
    assert points[0].predicted_Q.tolist() == slow_knn(train, test, labels, k, 0.07, num)


def test_one_search_gives_the_whole_grid() -> None:
    rng = np.random.default_rng(1)
    train, test = rng.standard_normal((40, 8)), rng.standard_normal((15, 8))
    targets = one_hot(rng.integers(0, 3, 40), 3)
    grid, _ = run_knn(train, test, targets, ks=(1, 5, 20), temperatures=(0.05, 0.5))
    assert [(p.temperature, p.k) for p in grid] == [(t, k) for t in (0.05, 0.5) for k in (1, 5, 20)]
    for point in grid:
        alone, _ = run_knn(train, test, targets, ks=(point.k,), temperatures=(point.temperature,))
        np.testing.assert_array_equal(alone[0].scores_QC, point.scores_QC)
        np.testing.assert_array_equal(alone[0].predicted_Q, point.predicted_Q)


def test_k_larger_than_the_gallery_uses_all_of_it() -> None:
    points, _ = run_knn(np.eye(3), np.eye(3), one_hot([0, 1, 1], 2), ks=(2, 50), centring="none")
    assert [(p.k, p.k_used) for p in points] == [(2, 2), (50, 3)]


def test_one_class_is_always_right() -> None:
    rng = np.random.default_rng(0)
    points, _ = run_knn(rng.standard_normal((6, 4)), rng.standard_normal((4, 4)), np.ones((6, 1), bool), ks=(3,))
    assert points[0].predicted_Q.tolist() == [0] * 4


def test_a_class_missing_from_train_is_never_predicted() -> None:
    rng = np.random.default_rng(0)
    targets = one_hot(rng.integers(0, 2, 10), 3)
    points, _ = run_knn(rng.standard_normal((10, 4)), rng.standard_normal((20, 4)), targets, ks=(5,))
    assert 2 not in points[0].predicted_Q
    assert (points[0].scores_QC[:, 2] == 0).all()


def test_several_labels_vote_for_each() -> None:
    found = neighbours([[0.5, 0.5]], [[0, 1]])
    targets = np.array([[True, True, False], [False, True, False]])
    np.testing.assert_allclose(vote_grid(found, targets, (2,), (0.07,))[0].scores_QC, [[1.0, 2.0, 0.0]])


class TestCentring:
    def test_means_by_hand(self) -> None:
        train, test = np.array([[1.0, 0], [3, 0]]), np.array([[5.0, 1], [5, -1]])
        np.testing.assert_allclose(centre(train, test, "none")[0], [[1, 0], [1, 0]])
        np.testing.assert_allclose(centre(train, test, "train")[0], [[-1, 0], [1, 0]])
        np.testing.assert_allclose(centre(train, test, "train")[1], unit([[3, 1], [3, -1]]), atol=1e-6)
        np.testing.assert_allclose(centre(train, test, "per_split")[1], [[0, 1], [0, -1]])

    def test_a_shift_of_test_alone_is_undone_by_per_split_only(self) -> None:
        rng = np.random.default_rng(0)
        train, test = rng.standard_normal((20, 6)), rng.standard_normal((10, 6))
        shifted = test + 100
        own = [centre(train, t, "per_split")[1] for t in (test, shifted)]
        strict = [centre(train, t, "train")[1] for t in (test, shifted)]
        np.testing.assert_allclose(own[0], own[1], atol=1e-4)
        assert not np.allclose(strict[0], strict[1], atol=0.1)

    def test_one_row_is_its_own_mean(self) -> None:
        train, test = centre(np.ones((1, 3)), np.ones((1, 3)), "per_split")
        assert not train.any()
        assert not test.any()
        assert nearest(test, train, 1).similarity_QK.tolist() == [[0.0]]


def unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, float)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_bad_settings_are_refused() -> None:
    found = neighbours([[0.5]], [[0]])
    with pytest.raises(InvalidInputError, match="at least 1"):
        vote_grid(found, np.ones((1, 1), bool), (0,), (0.07,))
    with pytest.raises(InvalidInputError, match="temperature above 0"):
        vote_grid(found, np.ones((1, 1), bool), (1,), (0.0,))
    with pytest.raises(ShapeMismatchError, match="targets"):
        run_knn(np.eye(3), np.eye(3), np.ones((2, 1), bool))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_one_value_that_is_no_number_is_refused(bad: float, side: str) -> None:
    arrays = {"queries": np.full((3, 8), 0.3, np.float32), "gallery": np.full((5, 8), 0.3, np.float32)}
    assert nearest(arrays["queries"], arrays["gallery"], 2).k == 2
    arrays[side][1, 4] = bad
    arrays[side][2, 4] = -bad  # infinities of both signs must not cancel
    with pytest.raises(InvalidInputError, match=f"finite {side}"):
        nearest(arrays["queries"], arrays["gallery"], 2)
