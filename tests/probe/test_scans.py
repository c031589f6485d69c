"""Whoever scans, the search says the same; and what is measured decides who does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probe.maths import exact_search, scans
from probe.maths.exact_search import describe_faiss, nearest, unit_vectors
from probe.maths.scans import MIN_GAIN, pick_scan, scan_with_faiss, scan_with_torch
from probe.threads import load_faiss


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 60)),
    k=st.integers(1, 60),
    queries_at_once=st.integers(1, 40),
    rows_at_once=st.integers(1, 70),
)
def test_products_of_any_size_find_the_best(
    seed: int, sizes: tuple[int, int], k: int, queries_at_once: int, rows_at_once: int
) -> None:
    rng = np.random.default_rng(seed)
    queries, gallery = (unit_vectors(rng.standard_normal((n, 9))) for n in sizes)
    gallery.flags.writeable = False  # as a gallery that is mapped
    k = min(k, len(gallery))
    scores, rows = scan_with_torch(queries, gallery, k, queries_at_once=queries_at_once, rows_at_once=rows_at_once)
    expected = np.sort(queries @ gallery.T, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(queries @ gallery.T, rows, 1), scores, atol=1e-6)
    assert (np.diff(np.sort(rows, axis=1), axis=1) > 0).all(), "no row twice"


def test_the_search_says_the_same_whoever_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """With copies, so that candidates differ between the two: the one rule of who is nearer decides."""
    rng = np.random.default_rng(1)
    originals = unit_vectors(rng.standard_normal((300, 32)))
    gallery, queries = originals[rng.integers(0, 300, 900)], unit_vectors(rng.standard_normal((200, 32)))
    found = {}
    for scan in (scan_with_faiss, scan_with_torch):
        monkeypatch.setattr(exact_search, "pick_scan", lambda *_, scan=scan: scan)
        found[scan] = nearest(queries, gallery, 7)
    theirs, ours = found.values()
    np.testing.assert_array_equal(theirs.index_QK, ours.index_QK)
    np.testing.assert_array_equal(theirs.similarity_QK, ours.similarity_QK)


def test_what_was_measured_decides_for_large_searches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = (torch.get_num_threads(), load_faiss().omp_get_max_threads())
    gallery = np.broadcast_to(np.float32(0), (200_000, 1024))
    large, small = (np.broadcast_to(np.float32(0), (n, 1024)) for n in (2048, 64))
    for gain, expected in ((MIN_GAIN * 1.1, scan_with_torch), (MIN_GAIN / 1.1, scan_with_faiss)):
        monkeypatch.setitem(scans._gains, threads, gain)
        assert pick_scan(large, gallery, 24) is expected
        assert pick_scan(small, gallery, 24) is scan_with_faiss
        assert pick_scan(large, gallery, 20_000) is scan_with_faiss
        assert f"scan with {'torch' if expected is scan_with_torch else 'FAISS'}" in describe_faiss()


def test_it_is_measured_once() -> None:
    rows = unit_vectors(np.random.default_rng(0).standard_normal((256, 16)))
    first = scans.torch_gain(rows, rows, 5)
    assert first > 0
    assert scans.torch_gain(rows[:9], rows, 5) == first


def test_candidates_of_many_queries_are_scored_by_several_threads_as_by_one() -> None:
    rng = np.random.default_rng(2)
    gallery, queries = (unit_vectors(rng.standard_normal((n, 24))) for n in (500, 333))
    candidates = rng.integers(0, 500, (333, 6))
    rescore = exact_search._Rescoring(gallery, 6, 8)
    expected = np.einsum("qkd,qd->qk", gallery[candidates].astype(np.float64), queries.astype(np.float64))
    for num_parts in (1, 3):
        rescore._taken = np.empty((num_parts, 8, 6, 24), np.float32)
        rescore._exact = np.empty((num_parts, 8, 6, 24))
        np.testing.assert_allclose(rescore(queries, candidates), expected, atol=1e-12)
    np.testing.assert_array_equal(rescore(queries[:1], candidates[:1]), rescore(queries, candidates)[:1])


def test_many_cores_and_neighbours_take_no_more_memory_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    gallery = np.broadcast_to(np.float32(0), (5000, 2048))
    for num_candidates, num_threads in ((24, 56), (204, 6), (5000, 1)):
        rescore = exact_search._Rescoring(gallery, num_candidates, 8)
        assert len(rescore._taken) == len(rescore._exact) == num_threads
        del rescore
