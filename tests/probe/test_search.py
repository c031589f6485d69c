"""Exact search: equal to a slow numpy twin, index for index, also among copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InvalidInputError, ShapeMismatchError
from probe.maths import exact_search as search
from probe.maths.exact_search import describe_faiss, nearest, similarities, unit_vectors


def twin(queries: np.ndarray, gallery: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """One query at a time, one pair at a time, float64."""
    similarity, index = [], []
    for query in queries:
        scores = [
            round(float(sum(a * b for a, b in zip(query.tolist(), row.tolist(), strict=True))), 6) for row in gallery
        ]
        order = sorted(range(len(gallery)), key=lambda i: (-scores[i], i))[:k]
        index.append(order)
        similarity.append([scores[i] for i in order])
    return np.array(similarity), np.array(index)


def assert_same_as_twin(queries: np.ndarray, gallery: np.ndarray, k: int) -> None:
    found = nearest(queries, gallery, k)
    similarity, index = twin(queries, gallery, k)
    np.testing.assert_array_equal(found.index_QK, index)
    np.testing.assert_allclose(found.similarity_QK, similarity, atol=1.1e-6)


@pytest.mark.parametrize(("num_queries", "num_rows", "dim", "k"), [(40, 60, 16, 5), (3, 200, 7, 20), (1, 1, 4, 1)])
def test_equals_the_brute_force_twin(num_queries: int, num_rows: int, dim: int, k: int) -> None:
    rng = np.random.default_rng(num_rows)
    gallery = unit_vectors(rng.standard_normal((num_rows, dim)))
    queries = unit_vectors(rng.standard_normal((num_queries, dim)))
    assert_same_as_twin(queries, gallery, k)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), distinct=st.integers(1, 5), k=st.integers(1, 12), num_queries=st.integers(1, 30))
def test_copies_come_in_the_order_of_their_rows(seed: int, distinct: int, k: int, num_queries: int) -> None:
    """Galleries made of few distinct rows: ties everywhere, also across place k."""
    rng = np.random.default_rng(seed)
    originals = unit_vectors(rng.standard_normal((distinct, 6)))
    gallery = originals[rng.integers(0, distinct, 40)]
    queries = unit_vectors(np.concatenate([originals, rng.standard_normal((num_queries, 6))]))
    assert_same_as_twin(queries, gallery, k)


def test_open_queries_are_scored_against_the_whole_gallery(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all rows alike, the candidates that FAISS fetched cannot be trusted; the first rows must win."""
    called = []
    original = search._scan_all
    monkeypatch.setattr(search, "_scan_all", lambda *args: called.append(1) or original(*args))
    gallery = unit_vectors(np.ones((50, 8)))
    found = nearest(gallery[:3], gallery, 4)
    np.testing.assert_array_equal(found.index_QK, [[0, 1, 2, 3]] * 3)
    assert called


def test_blocks_do_not_change_the_answer() -> None:
    rng = np.random.default_rng(0)
    gallery, queries = (unit_vectors(rng.standard_normal((n, 12))) for n in (90, 50))
    whole = nearest(queries, gallery, 7)
    for at_once in (1, 3, 7, 13):  # one query, less and more than are rescored together, with a rest
        parts = nearest(queries, gallery, 7, queries_per_scan=at_once)
        np.testing.assert_array_equal(whole.index_QK, parts.index_QK)
        np.testing.assert_array_equal(whole.similarity_QK, parts.similarity_QK)


def test_more_neighbours_than_rows() -> None:
    gallery = unit_vectors(np.eye(3, dtype=np.float32))
    found = nearest(gallery, gallery, 10)
    assert found.k == 3
    np.testing.assert_array_equal(np.sort(found.index_QK, axis=1), [[0, 1, 2]] * 3)


def test_all_pairs_and_the_search_agree() -> None:
    rng = np.random.default_rng(3)
    gallery, queries = (unit_vectors(rng.standard_normal((n, 9))) for n in (30, 8))
    scores = similarities(queries, gallery)
    found = nearest(queries, gallery, 30)
    np.testing.assert_array_equal(np.take_along_axis(scores, found.index_QK, 1), found.similarity_QK)


def test_unit_vectors_keep_zero_rows() -> None:
    vectors = unit_vectors(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], atol=1e-7)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    good = unit_vectors(np.eye(4))
    broken = good.copy()
    broken[2, 1] = bad
    with pytest.raises(InvalidInputError, match="finite gallery"):
        nearest(good, broken, 1)
    with pytest.raises(InvalidInputError, match="finite queries"):
        nearest(broken, good, 1)


def test_bad_shapes_and_k_are_refused() -> None:
    good = unit_vectors(np.eye(4))
    with pytest.raises(ShapeMismatchError, match=r"\(4, 4\).*\(4, 3\)"):
        nearest(good, good[:, :3], 1)
    with pytest.raises(InvalidInputError, match="at least 1"):
        nearest(good, good, 0)
    with pytest.raises(InvalidInputError, match="gallery row"):
        nearest(good, good[:0], 1)


def test_no_query_gives_no_answer() -> None:
    gallery = unit_vectors(np.eye(4))
    assert nearest(gallery[:0], gallery, 2).index_QK.shape == (0, 2)


def test_faiss_describes_itself() -> None:
    assert "threads" in describe_faiss()
