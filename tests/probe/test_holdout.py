"""Held-out folds never split a group; low-shot draws are balanced, nested and seeded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidInputError
from probe.trained.holdout import balanced_subset, group_folds, holdout_masks


def one_hot(classes: np.ndarray, num: int) -> np.ndarray:
    return np.eye(num, dtype=bool)[classes]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), num_groups=st.integers(1, 30), num_folds=st.integers(2, 6))
def test_a_group_stays_in_one_fold_and_every_fold_is_used(seed: int, num_groups: int, num_folds: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"g{i}" for i in rng.integers(0, num_groups, 60)]
    folds = group_folds(groups, one_hot(rng.integers(0, 4, 60), 4), num_folds, seed)
    for group in set(groups):
        assert len({fold for fold, g in zip(folds, groups, strict=True) if g == group}) == 1
    assert set(folds) == set(range(min(num_folds, len(set(groups)))))


def test_folds_spread_every_class() -> None:
    classes = np.arange(100) % 5
    folds = group_folds([str(i) for i in range(100)], one_hot(classes, 5), 5, seed=0)
    counts = np.array([[(classes[folds == f] == c).sum() for c in range(5)] for f in range(5)])
    assert (counts == 4).all()


def test_every_row_is_held_out_once_in_small_sets_and_one_fold_is_in_large_ones() -> None:
    groups = [str(i // 2) for i in range(40)]
    targets = one_hot(np.arange(40) % 4, 4)
    masks, text = holdout_masks(groups, targets, 0.2, 0)
    assert masks.shape == (5, 40)
    assert (masks.sum(axis=0) == 1).all()
    assert text == "5 folds of the train rows, held out by group"
    one, text = holdout_masks(groups, targets, 0.2, 0, all_folds=False)
    assert one.shape == (1, 40)
    assert text == f"{one.sum()} of 40 train rows, held out by group"
    large = one_hot(np.arange(6000) % 4, 4)
    assert len(holdout_masks([str(i) for i in range(6000)], large, 0.2, 0)[0]) == 1


@pytest.mark.parametrize(
    ("groups", "classes"), [(["a"] * 6, [0, 1] * 3), (["a", "b"], [0, 1])], ids=["one group", "one row a class"]
)
def test_nothing_can_be_held_out_is_said(groups: list[str], classes: list[int]) -> None:
    masks, text = holdout_masks(groups, one_hot(np.array(classes), 2), 0.2, 0)
    assert len(masks) == 0
    assert text.startswith("nothing was chosen")


class TestLowShot:
    def test_the_same_number_from_every_class(self) -> None:
        targets = one_hot(np.repeat([0, 1, 2], [50, 30, 20]), 3)
        assert targets[balanced_subset(targets, per_class=4)].sum(axis=0).tolist() == [4, 4, 4]
        assert targets[balanced_subset(targets, fraction=0.3)].sum(axis=0).tolist() == [10, 10, 10]

    def test_a_small_class_gives_all_it_has(self) -> None:
        targets = one_hot(np.repeat([0, 1], [9, 2]), 3)
        assert targets[balanced_subset(targets, per_class=5)].sum(axis=0).tolist() == [5, 2, 0]

    def test_at_least_one_a_class(self) -> None:
        targets = one_hot(np.arange(100) % 10, 10)
        assert targets[balanced_subset(targets, fraction=0.001)].sum(axis=0).tolist() == [1] * 10

    def test_seeds_draw_differently_and_draws_are_nested(self) -> None:
        targets = one_hot(np.arange(200) % 2, 2)
        few, more = (set(balanced_subset(targets, per_class=n, seed=1)) for n in (5, 20))
        assert few < more
        assert few != set(balanced_subset(targets, per_class=5, seed=2))

    def test_it_is_not_the_first_rows_of_the_file(self) -> None:
        targets = one_hot(np.zeros(100, int), 1)
        assert set(balanced_subset(targets, per_class=10)) != set(range(10))

    def test_rows_without_a_class_are_never_drawn(self) -> None:
        targets = np.zeros((6, 2), bool)
        targets[2, 0] = targets[4, 1] = True
        assert balanced_subset(targets, per_class=3).tolist() == [2, 4]

    @pytest.mark.parametrize("bad", [{"fraction": 0.0}, {"fraction": 1.5}, {"per_class": 0}, {}])
    def test_bad_amounts_are_refused(self, bad: dict[str, float]) -> None:
        with pytest.raises(InvalidInputError):
            balanced_subset(np.ones((3, 1), bool), **bad)
