"""Retrieval against hand-made rankings and a slow twin."""

from __future__ import annotations

import numpy as np

from probe.maths.exact_search import unit_vectors
from probe.methods.knn import pool_some
from probe.methods.overview import principal_axes
from probe.methods.retrieval import rank_gallery


def test_rank_and_precision_by_hand() -> None:
    """Gallery at 0, 30, 60 degrees, classes 1, 0, 0; the query at 0 degrees is of class 0."""
    angles = np.radians([0, 30, 60])
    gallery = unit_vectors(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    truth = np.array([[0, 1], [1, 0], [1, 0]], bool)
    ranking = rank_gallery(gallery[:1], gallery, np.array([[True, False]]), truth)
    assert ranking.first_Q.tolist() == [2]
    np.testing.assert_allclose(ranking.average_precision_Q, [(1 / 2 + 2 / 3) / 2])


def test_siblings_leave_the_ranking() -> None:
    gallery = unit_vectors(np.array([[1.0, 0], [1, 0.1], [0, 1]]))
    truth = np.array([[1, 0], [0, 1], [1, 0]], bool)
    query = gallery[:1]
    own = np.array([[True, False]])
    assert rank_gallery(query, gallery, own, truth).first_Q.tolist() == [1]
    groups = {"query_groups": ["film"], "gallery_groups": ["film", "b", "c"]}
    assert rank_gallery(query, gallery, own, truth, **groups).first_Q.tolist() == [2]


def test_nothing_relevant_is_never_found() -> None:
    gallery = unit_vectors(np.eye(2))
    ranking = rank_gallery(gallery, gallery, np.array([[0, 1]] * 2, bool), np.array([[1, 0]] * 2, bool))
    assert ranking.first_Q.tolist() == [0, 0]
    assert ranking.average_precision_Q.tolist() == [0, 0]


def test_equals_a_slow_twin() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (unit_vectors(rng.standard_normal((n, 5))) for n in (40, 90))
    truth, own = np.eye(4, dtype=bool)[rng.integers(0, 4, 40)], np.eye(4, dtype=bool)[rng.integers(0, 4, 90)]
    ranking = rank_gallery(queries, gallery, own, truth)
    for i, query in enumerate(queries.astype(np.float64)):
        order = sorted(range(40), key=lambda j: (-round(float(query @ gallery[j].astype(np.float64)), 6), j))
        places = [place for place, j in enumerate(order, start=1) if (truth[j] & own[i]).any()]
        assert ranking.first_Q[i] == places[0]
        expected = np.mean([n / place for n, place in enumerate(places, start=1)])
        np.testing.assert_allclose(ranking.average_precision_Q[i], expected)


def test_some_crops_are_nested_and_valid() -> None:
    rng = np.random.default_rng(0)
    values = np.zeros((30, 6, 6), np.float32)
    values[:, np.arange(6), np.arange(6)] = 1  # crop v is the v-th unit vector
    valid = rng.random((30, 6)) < 0.7
    valid[:, 0] = True
    before = np.zeros((30, 6), bool)
    for count in range(1, 7):
        used = pool_some(values, valid, count, seed=1) > 0
        assert (used.sum(axis=1) == np.minimum(count, valid.sum(axis=1))).all()
        assert not (used & ~valid).any()
        assert not (before & ~used).any()
        before = used


def test_principal_axes_equal_a_full_decomposition() -> None:
    rng = np.random.default_rng(0)
    for shape in ((30, 8), (8, 30)):
        rows = rng.standard_normal(shape) * np.linspace(3, 1, shape[1])
        rows -= rows.mean(axis=0)
        axes, shares = principal_axes(rows)
        _, singular, expected = np.linalg.svd(rows, full_matrices=False)
        np.testing.assert_allclose(np.abs((axes * expected[:2]).sum(axis=1)), 1, atol=1e-4)
        np.testing.assert_allclose(shares, (singular**2 / (singular**2).sum())[:2], atol=1e-6)
    axes, shares = principal_axes(np.zeros((3, 4)))
    assert not axes.any()
    assert shares == (0.0, 0.0)
