"""Indexes: equal to brute force, checked before they are loaded, honest about what they no longer know."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import (
    CorruptDataError,
    InvalidInputError,
    NoDataError,
    NotFoundError,
    ShapeMismatchError,
    SnapshotChangedError,
)
from pipeline.events import Event, Note
from pipeline.products.index import choose_kind
from pipeline.recipe import Recipe, parse_recipe
from pipeline.settings import Settings
from probe.index import faiss_index
from probe.index.faiss_index import (
    build_index,
    pq_segments,
    read_index_file,
    sample_vectors,
    write_index_file,
)
from probe.index.stage import describe_hits, open_index, plan_index, run_index, search_index, search_stored
from probe.maths.exact_search import unit_vectors
from tests.support.stores import FEATURE_SET, fill, fill_embeddings, make_store, video_table

NUM_VIDEOS, NUM_CROPS, DIM = 24, 4, 16


def make_recipe(**index: object) -> Recipe:
    content = {
        "name": "toy-recipe",
        "dataset": {"name": "toy", "videos": "*.mp4"},
        "crops": {"train16": {"policy": "random", "num_crops": NUM_CROPS}},
        "backbones": {FEATURE_SET: {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
        "train": {"crops": "train16", "backbone": FEATURE_SET},
        "indexes": [{"crops": "train16", **index}],
    }
    if not index:
        del content["indexes"]
    return parse_recipe(content)


def build(store: FeatureStore, recipe: Recipe | None = None, **options: object) -> dict[str, int]:
    plan = plan_index(recipe or make_recipe(name="default"), store, Settings(), **options)
    return dict(run_index(plan, store, Settings()).did)


def pooled(store: FeatureStore) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin of the readout `mean`: one video at a time."""
    block = store.dataset("toy").select().features("train16", FEATURE_SET)
    vectors = np.zeros((len(block.rows), block.values.shape[-1]), np.float64)
    for i in range(len(block.rows)):
        if block.valid[i].any():
            vectors[i] = block.values[i][block.valid[i]].astype(np.float64).mean(axis=0)
    return vectors, block.valid.any(axis=1)


def brute_force(store: FeatureStore, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All rows with a vector by cosine of the centred vectors, best first, ties by row."""
    vectors, valid = pooled(store)
    rows = np.flatnonzero(valid)
    centre = vectors[valid].mean(axis=0)
    gallery, q = vectors[valid] - centre, query - centre
    cosines = gallery @ q / (np.linalg.norm(gallery, axis=1) * np.linalg.norm(q))
    order = np.lexsort((rows, -np.round(cosines, 6)))
    return rows[order], cosines[order]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make_store(tmp_path / "store", NUM_VIDEOS, NUM_CROPS, DIM, statuses={5: "unreadable"})


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 30))
def test_flat_search_equals_brute_force(tmp_path_factory: pytest.TempPathFactory, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((NUM_VIDEOS, NUM_CROPS, DIM)).astype(np.float16)
    store = make_store(tmp_path_factory.mktemp("s"), values=values, valid=rng.random((NUM_VIDEOS, NUM_CROPS)) < 0.7)
    build(store)
    queries = rng.standard_normal((3, DIM)).astype(np.float32)
    rows, similarities = search_index(store, "toy", "default", queries, k)
    assert rows.shape == similarities.shape == (3, k)
    for query, found, cosines in zip(queries, rows, similarities, strict=True):
        wanted, exact = brute_force(store, query)
        num = min(k, len(wanted))
        # Float32 sums may swap rows whose cosines agree to six digits; compare the cosines, and rows where they differ.
        np.testing.assert_allclose(cosines[:num], exact[:num], atol=2e-6)
        clear = np.abs(np.diff(exact, append=-2)) > 1e-5
        clear[1:] &= clear[:-1]
        np.testing.assert_array_equal(found[:num][clear[:num]], wanted[:num][clear[:num]])
        assert (found[num:] == -1).all()
        assert np.isnan(cosines[num:]).all()


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_condition_searches_every_row_that_it_names(store: FeatureStore, kind: str) -> None:
    """However small their share is, and in the order that a search of everything has."""
    build(store, make_recipe(name="default", kind=kind))
    ds = store.dataset("toy")
    among = ds.select("row % 5 = 0 OR row = 21").rows
    (video_id,) = ds.select(rows=[21]).videos["video_id"].to_pylist()
    found = search_stored(store, "toy", "default", [video_id], 9, among=among)
    rows, cosines = brute_force(store, pooled(store)[0][21])
    wanted = [(row, c) for row, c in zip(rows.tolist(), cosines, strict=True) if row in among and row != 21]
    assert 5 in among  # it has no vector
    assert found.rows[0].tolist() == [row for row, _ in wanted] + [-1] * (9 - len(wanted))
    np.testing.assert_allclose(found.similarities[0][: len(wanted)], [c for _, c in wanted], atol=2e-6)
    assert search_stored(store, "toy", "default", [video_id], 2, among=among[:0]).rows.tolist() == [[-1, -1]]


def test_a_stored_video_finds_itself_first_and_equal_ones_by_row(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((12, 2, 8)).astype(np.float16)
    values[7] = values[3]
    store = make_store(tmp_path / "s", values=values)
    build(store, make_recipe(name="default"))
    rows, similarities = search_index(store, "toy", "default", pooled(store)[0][[3, 7, 9]].astype(np.float32), 3)
    assert rows[:, 0].tolist() == [3, 3, 9]
    assert rows[:2, 1].tolist() == [7, 7]
    np.testing.assert_allclose(similarities[:, 0], 1, atol=1e-5)


def test_search_by_stored_id_leaves_the_query_out(store: FeatureStore) -> None:
    build(store)
    ids = ["videos/000003.mp4", "videos/000001.mp4"]
    found = search_stored(store, "toy", "default", ids, 4)
    vectors, _ = pooled(store)
    for row, line in zip((3, 1), found.rows, strict=True):
        wanted = [r for r in brute_force(store, vectors[row])[0] if r != row][:4]
        assert line.tolist() == wanted
    hits = describe_hits(store, "toy", found.rows[0], found.similarities[0])
    assert [h.rank for h in hits] == [1, 2, 3, 4]
    assert hits[0].video_id == f"videos/{found.rows[0][0]:06d}.mp4"
    with pytest.raises(NotFoundError, match="nowhere"):
        search_stored(store, "toy", "default", ["nowhere.mp4"], 4)
    with pytest.raises(NoDataError, match="000005"):
        search_stored(store, "toy", "default", ["videos/000005.mp4"], 4)


def test_a_second_run_does_nothing_and_a_plan_says_why(store: FeatureStore) -> None:
    recipe = make_recipe(name="default")
    plan = plan_index(recipe, store, Settings())
    assert not plan.is_empty
    assert plan.table()[0]["why"] == "there is no index default yet"
    assert build(store, recipe) == {"indexes_built": 1, "indexes_skipped": 0}
    assert plan_index(recipe, store, Settings()).is_empty
    assert build(store, recipe) == {"indexes_built": 0, "indexes_skipped": 1}
    assert build(store, recipe, force=True) == {"indexes_built": 1, "indexes_skipped": 0}
    hnsw = plan_index(make_recipe(name="default", kind="hnsw"), store, Settings())
    assert hnsw.table()[0]["why"] == "indexes[0].kind flat → hnsw"


def test_a_stale_index_is_named(store: FeatureStore) -> None:
    build(store)
    assert open_index(store, "toy").stale is None
    store.dataset("toy").append_videos(video_table(4, first=NUM_VIDEOS))
    fill(store, dim=DIM)
    events: list[Event] = []
    query = np.ones(DIM, np.float32)
    rows, _ = search_index(store, "toy", "default", query, 5, on_event=events.append)
    assert rows.max() < NUM_VIDEOS
    assert isinstance(events[0], Note)
    assert "index default is stale" in events[0].text
    assert "(24 videos)" in events[0].text
    assert "(28 videos)" in events[0].text
    with pytest.raises(SnapshotChangedError, match="index default is stale"):
        search_index(store, "toy", "default", query, 5, require_fresh=True)
    assert (
        plan_index(make_recipe(name="default"), store, Settings()).table()[0]["why"]
        == f"features train16/{FEATURE_SET} changed"
    )
    build(store)
    assert open_index(store, "toy").stale is None
    assert open_index(store, "toy").meta["num_vectors"] == NUM_VIDEOS + 4 - 1


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_flipped_byte_is_refused_before_faiss_sees_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    vectors = unit_vectors(np.random.default_rng(0).standard_normal((20, 8)))
    path = tmp_path_factory.mktemp("i") / "index.faiss"
    write_index_file(build_index(lambda: iter([(np.arange(20), vectors)]), 20, 8, "flat"), path)
    whole = path.read_bytes()
    digest = faiss_index.hash_file(path)
    position = data.draw(st.integers(0, len(whole) - 1))
    bit = data.draw(st.integers(0, 7))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << bit
    path.write_bytes(damaged)
    with pytest.raises(CorruptDataError, match="sha256"):
        read_index_file(path, sha256=digest, num_vectors=20, dim=8, kind="flat", effort=None)


def test_a_flipped_byte_in_the_store_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    build(store)
    for file in (tmp_path / "store" / "toy" / "indexes" / "default").iterdir():
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 4
        file.write_bytes(damaged)
        if file.name == "meta.json":  # its copy serves
            assert open_index(store, "toy").meta["num_vectors"] == NUM_VIDEOS - 1
            file.write_bytes(whole)
            continue
        with pytest.raises(CorruptDataError):
            search_index(store, "toy", "default", np.ones(DIM, np.float32), 3)
        file.write_bytes(whole)
    search_index(store, "toy", "default", np.ones(DIM, np.float32), 3)


def test_an_index_of_another_size_than_recorded_is_refused(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(0).standard_normal((20, 8)))
    path = tmp_path / "index.faiss"
    write_index_file(build_index(lambda: iter([(np.arange(20), vectors)]), 20, 8, "flat"), path)
    digest = faiss_index.hash_file(path)
    with pytest.raises(CorruptDataError, match="expected 21 vectors"):
        read_index_file(path, sha256=digest, num_vectors=21, dim=8, kind="flat", effort=None)
    path.write_bytes(b"not an index at all")
    with pytest.raises(CorruptDataError, match="unreadable"):
        read_index_file(path, sha256=faiss_index.hash_file(path), num_vectors=20, dim=8, kind="flat", effort=None)


def test_a_torn_write_is_noticed_and_the_old_index_stays(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    before = store.dataset("toy").artifact("indexes", "default").files

    def torn(built: object, path: Path) -> None:
        path.write_bytes(b"IxF")
        faiss_index._read(path)

    monkeypatch.setattr("probe.index.stage.write_index_file", torn)
    with pytest.raises(CorruptDataError):
        build(store, force=True)
    assert store.dataset("toy").artifact("indexes", "default").files == before
    search_index(store, "toy", "default", np.ones(DIM, np.float32), 3)


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
def test_approximate_indexes_state_their_measured_recall(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((20, 32)) * 3
    values = (centres[rng.integers(20, size=400)] + rng.standard_normal((400, 32)))[:, None].astype(np.float16)
    store = make_store(tmp_path / "s", values=values, shard_rows=256)
    events: list[Event] = []
    plan = plan_index(make_recipe(name="default", kind=kind), store, Settings())
    report = run_index(plan, store, Settings(), on_event=events.append)
    built = report.details["indexes"][0]
    assert set(built["recall"]) == {"1", "10"}
    assert built["num_recall_queries"] == 256
    assert any(isinstance(e, Note) and "recall@10" in e.text for e in events)
    assert built["recall"]["10"] >= 0.95
    assert (kind == "ivfpq") == bool(built["recall_compressed"])
    # The recorded recall is what a caller sees: search again, with the twin as judge.
    vectors, _ = pooled(store)
    queries = vectors[:100].astype(np.float32)
    found = search_index(store, "toy", "default", queries, 11).rows
    exact = np.stack([brute_force(store, v)[0][1:11] for v in vectors[:100]])
    seen = np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)])
    assert abs(seen - built["recall"]["10"]) < 0.1


def test_compressed_candidates_are_put_in_order_by_the_stored_vectors(tmp_path: Path) -> None:
    """One tight cluster: what the codes keep of it is mostly wrong, what is printed is the exact cosine."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal((1, 1, 32)) + 0.2 * rng.standard_normal((300, 2, 32))
    store = make_store(tmp_path / "s", values=values.astype(np.float16), statuses={7: "unreadable"})
    build(store, make_recipe(name="default", kind="ivfpq"))
    index = open_index(store, "toy")
    assert index.meta["recall_compressed"]["10"] < 0.95 <= index.meta["recall"]["10"]
    queries = pooled(store)[0][10:40].astype(np.float32)
    found = index.search(queries, 5)
    for query, rows, similarities in zip(queries, found.rows, found.similarities, strict=True):
        wanted, exact = brute_force(store, query)
        cosine = dict(zip(wanted.tolist(), exact.tolist(), strict=True))
        np.testing.assert_allclose(similarities, [cosine[row] for row in rows.tolist()], atol=2e-6)
        assert (np.diff(similarities) <= 0).all()
    exact_rows = np.stack([brute_force(store, query)[0][:5] for query in queries])
    assert np.mean([np.isin(e, f).mean() for e, f in zip(exact_rows, found.rows, strict=True)]) > 0.9
    everything = index.search(queries[:2], 400).rows  # more than there are
    assert (np.sort(everything[:, :299], axis=1) == [r for r in range(300) if r != 7]).all()
    assert (everything[:, 299:] == -1).all()


def test_readouts_cls_and_joined(store: FeatureStore) -> None:
    embeddings = np.random.default_rng(3).standard_normal((NUM_VIDEOS, 6)).astype(np.float32)
    fill_embeddings(store, "scale", embeddings)
    build(store, make_recipe(name="cls", readout="cls"))
    build(store, make_recipe(name="joined", readout="joined"))
    rows, _ = search_index(store, "toy", "cls", embeddings[[4, 9]], 1)
    assert rows[:, 0].tolist() == [4, 9]
    assert open_index(store, "toy", "cls").meta["num_vectors"] == NUM_VIDEOS
    joined = open_index(store, "toy", "joined")
    assert joined.meta["part_dims"] == [DIM, 6]
    vector = np.concatenate([pooled(store)[0][4], embeddings[4]]).astype(np.float32)
    assert joined.search(vector, 1).rows.tolist() == [[4]]
    # Each part counts alike, whatever its scale was.
    parts = np.split(joined.transform(vector * 1.0), [DIM], axis=1)
    np.testing.assert_allclose([np.linalg.norm(p) for p in parts], [0.5**0.5] * 2, atol=1e-5)


def test_bad_questions_get_answers_in_words(store: FeatureStore) -> None:
    with pytest.raises(NotFoundError, match="run `scale index"):
        search_index(store, "toy", "default", np.ones(DIM), 3)
    build(store)
    with pytest.raises(ShapeMismatchError, match=r"\(n, 16\)"):
        search_index(store, "toy", "default", np.ones(7), 3)
    with pytest.raises(InvalidInputError, match="finite"):
        search_index(store, "toy", "default", np.full(DIM, np.nan), 3)
    with pytest.raises(InvalidInputError, match="at least 1"):
        search_index(store, "toy", "default", np.ones(DIM), 0)


def test_a_plan_over_an_empty_store_is_honest(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "s")
    plan = plan_index(make_recipe(name="default"), store, Settings())
    assert plan.table()[0]["why"] == "unknown until extract has run"
    assert "index default: unknown" in plan.summary()
    with pytest.raises(NotFoundError, match="run the stages before it"):
        run_index(plan, store, Settings())
    plan = plan_index(make_recipe(name="default", readout="cls"), store, Settings())
    assert plan.table()[0]["why"] == "unknown until embed has run"


def test_a_store_without_any_usable_video_is_an_error_in_words(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", 4, statuses=dict.fromkeys(range(4), "unreadable"))
    with pytest.raises(InvalidInputError, match="at least one video"):
        build(store)


def test_a_recipe_without_indexes_gets_one(store: FeatureStore) -> None:
    recipe = make_recipe()
    assert [one.product.name for one in plan_index(recipe, store, Settings()).standings] == ["default"]


@pytest.mark.parametrize(
    ("num_vectors", "kind"), [(1, "flat"), (500_000, "flat"), (3_000_000, "hnsw"), (10**8, "ivfpq")]
)
def test_the_kind_follows_the_size(num_vectors: int, kind: str) -> None:
    assert choose_kind(num_vectors, 1024) == kind


@given(st.integers(1, 5000))
def test_pq_segments_divide_the_channels(dim: int) -> None:
    segments = pq_segments(dim)
    assert dim % segments == 0
    assert segments <= max(1, dim // 4)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 99))
def test_sampling_takes_distinct_rows_of_all_batches(sizes: list[int], budget: int, seed: int) -> None:
    total = sum(sizes)
    if total == 0:
        return
    everything = np.arange(total, dtype=np.float32)[:, None]
    edges = np.cumsum([0, *sizes])

    def batches():
        for a, b in itertools.pairwise(edges):
            yield np.arange(a, b), everything[a:b]

    sample = sample_vectors(batches, total, 1, budget, seed)[:, 0]
    assert len(sample) == min(budget, total)
    assert len(set(sample.tolist())) == len(sample)
    assert set(sample.tolist()) <= set(range(total))
