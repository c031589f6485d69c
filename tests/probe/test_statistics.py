"""Intervals that cover, p-values that do not cry wolf, and the exact small cases."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from probe.maths.statistics import bootstrap_interval, compare_paired


def own(n: int) -> list[str]:
    return [str(i) for i in range(n)]


def test_the_interval_contains_the_mean_and_repeats() -> None:
    hits = np.random.default_rng(0).random(80) < 0.6
    low, high = bootstrap_interval(hits, own(80), seed=3)
    assert 0 <= low < hits.mean() < high <= 1
    assert bootstrap_interval(hits, own(80), seed=3) == (low, high)


def test_groups_widen_the_interval() -> None:
    """Ten groups of ten that are right or wrong as a whole carry the news of ten rows, not of a hundred."""
    hits = np.repeat(np.arange(10) % 2, 10)
    alone = bootstrap_interval(hits, own(100))
    grouped = bootstrap_interval(hits, [str(i // 10) for i in range(100)])
    assert grouped[1] - grouped[0] > 2 * (alone[1] - alone[0])


def test_coverage_is_close_to_nominal() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        hits = rng.random(60) < 0.7
        low, high = bootstrap_interval(hits, own(60), seed=trial, num_resamples=400)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


@pytest.mark.parametrize("value", [0, 1])
def test_unanimous_rows_do_not_claim_certainty(value: int) -> None:
    expected = binomtest(value * 20, 20).proportion_ci(0.95, method="exact")
    assert bootstrap_interval(np.full(20, value), own(20)) == pytest.approx((expected.low, expected.high))
    # Twenty rows of two groups say as much as two rows.
    low, high = bootstrap_interval(np.full(20, value), ["a", "b"] * 10)
    assert high - low > 0.8


def test_nothing_known_without_rows() -> None:
    assert bootstrap_interval(np.zeros(0), []) == (0.0, 1.0)
    assert compare_paired(np.zeros(0), np.zeros(0), []).p_value == 1.0


def test_equal_results_do_not_differ() -> None:
    hits = np.array([1, 0, 1, 1])
    paired = compare_paired(hits, hits, own(4))
    assert (paired.difference, paired.interval, paired.p_value) == (0.0, (0.0, 0.0), 1.0)


def test_exact_p_value_by_hand() -> None:
    """Five rows, all better: of 32 sign patterns only two are as extreme."""
    paired = compare_paired(np.zeros(5), np.ones(5), own(5))
    assert paired.difference == 1.0
    assert paired.p_value == pytest.approx(2 / 32)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), num_groups=st.integers(1, 8))
def test_exact_p_value_equals_a_slow_twin(seed: int, num_groups: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 2, 24), rng.integers(0, 2, 24)
    groups = [str(g) for g in rng.integers(0, num_groups, 24)]
    sums: dict[str, int] = {}
    for group, delta in zip(groups, (b - a).tolist(), strict=True):
        sums[group] = sums.get(group, 0) + delta
    flips = [abs(sum(s * v for s, v in zip(signs, sums.values(), strict=True)))
             for signs in itertools.product((1, -1), repeat=len(sums))]  # fmt: skip
    expected = sum(f >= abs(sum(sums.values())) for f in flips) / len(flips)
    assert compare_paired(a, b, groups).p_value == pytest.approx(expected)


def test_random_flips_agree_with_the_exact_binomial() -> None:
    """With one row a group the sign-flip test is McNemar's exact test."""
    a = np.array([1] * 6 + [0] * 18 + [1] * 30)
    b = np.array([0] * 6 + [1] * 18 + [1] * 30)
    expected = binomtest(6, 24).pvalue
    assert compare_paired(a, b, own(54)).p_value == pytest.approx(expected, abs=0.01)


def test_p_values_of_no_difference_are_not_small_too_often() -> None:
    rng = np.random.default_rng(1)
    small = 0
    for trial in range(200):
        a, b = rng.random(60) < 0.6, rng.random(60) < 0.6
        small += compare_paired(a, b, own(60), seed=trial, num_permutations=199).p_value <= 0.05
    assert small / 200 <= 0.1
