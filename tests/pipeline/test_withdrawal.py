"""Withdrawal: out of every answer at once, out of every byte by the end, whatever happens in between."""

from __future__ import annotations

import io
import json
import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import NotFoundError, PipelineError
from pipeline.sets.compaction import compact_ledger
from pipeline.storage.backend_local import LocalBackend
from pipeline.store.facts import FACT_COLUMNS
from pipeline.store.previews import Preview
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.stores import CROPS, FEATURE_SET, fill, fill_embeddings, make_geometry, make_store, video_table

NUM_VIDEOS, GONE, NAME = 20, [3, 9], "private/löffel & co 3.mp4"
SHA, MENDED = "c0ffee" + "0" * 58, "decaf" + "0" * 59


def picture(row: int) -> Preview:
    return Preview((0.0,), b"a picture of row %d;" % row + bytes(64))


def make(folder: Path) -> FeatureStore:
    """Two feature sets, embeddings, labels, an index and a report over videos of which row 3 has a speaking name."""
    store = FeatureStore.create(folder)
    dataset = store.create_dataset("toy", shard_rows=4)
    for first, count in ((0, 8), (8, 12)):  # two commits
        table = video_table(count, first=first, labels=["ab"[i % 2] for i in range(count)])
        if first == 0:
            ids, uris, hashes = (table[name].to_pylist() for name in ("video_id", "uri", "sha256"))
            ids[3], uris[3], hashes[3] = NAME, "file:///data/" + quote(NAME), SHA
            table = table.set_column(0, "video_id", pa.array(ids))
            table = table.set_column(1, "uri", pa.array(uris))
            table = table.set_column(table.schema.get_field_index("sha256"), "sha256", pa.array(hashes))
        dataset.append_videos(table)
    facts = dataset.by_row.select(FACT_COLUMNS).slice(3, 1).to_pylist()[0]  # its file came late, from elsewhere
    dataset.change_facts({3: facts | {"uri": "file:///mended/" + quote(NAME), "sha256": MENDED}})
    from pipeline.recipe import RandomPolicy

    dataset.define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=4))
    fill(store)
    fill(store, feature_set="other", fingerprint={"backbone": "other"}, salt=1)
    fill(store, retry=["ok"])  # a second generation: the first is history that holds the row as well
    compact_ledger(store.backend, f"toy/crops/{CROPS}/ledger/other", min_loose=1)  # packs hold entries as well
    fill_embeddings(store, "scale", np.random.default_rng(0).standard_normal((NUM_VIDEOS, 6)) + 5)
    store.dataset("toy").save_previews({row: picture(row) for row in range(NUM_VIDEOS)})
    store.dataset("toy").change_labels({3: {"label": "secret of three"}, 4: {"label": "c"}})
    predictions = io.BytesIO()
    rows = list(range(NUM_VIDEOS))
    ids = store.dataset("toy").videos["video_id"]
    columns = {"result": ["knn"] * NUM_VIDEOS, "row": rows, "video_id": ids, "correct": [True] * NUM_VIDEOS}
    pq.write_table(pa.table(columns), predictions)
    near = {"query": {"row": 3, "video_id": NAME}, "neighbours": [{"row": 4}]}
    far = {
        "query": {"row": 5, "video_id": "videos/000005.mp4"},
        "neighbours": [{"video": {"video_id": NAME}}, {"row": 6}],
    }
    report = {"results": [{"id": "knn", "top1": 0.5}], "strips": [near, far], "skipped": [NAME, "x"], "worst": NAME}
    files = {"report.json": json.dumps(report).encode(), "predictions.parquet": predictions.getvalue(),
             "report.html": b"<img alt='a picture of it'>"}  # fmt: skip
    store.dataset("toy").save_artifact("reports", "r", files, {"snapshot": "s"})
    store.dataset("toy").save_artifact("indexes", "default", {"index.bin": b"vectors"}, {})
    store.dataset("toy").save_artifact("models", "m", {"w.bin": b"weights"}, {})
    return store


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("withdrawal") / "s"
    make(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "s"))


def traces(original: Path) -> dict[str, bytes]:
    """What gives row 3 away, each of which the untouched store holds."""
    dataset = FeatureStore.open(original).dataset("toy")
    found = {"id": NAME.encode(), "address": quote(NAME).encode(), "hash": SHA.encode(),
             "mended": MENDED.encode(), "later address": b"file:///mended/", "label": b"secret of three",
             "geometry": make_geometry(np.array([3]), 4)[0].tobytes(),
             "picture": b"a picture of row 3;",
             "embedding": dataset.select(rows=[3]).embeddings("scale").values[0].tobytes()}  # fmt: skip
    for name in (FEATURE_SET, "other"):
        found[name] = dataset.select(rows=[3]).features(CROPS, name).values[0, 1].tobytes()
    return found


def every_byte(folder: Path) -> bytes:
    """All files, with Parquet's columns decoded beside their compressed bytes."""
    parts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        parts += [str(path).encode(), path.read_bytes()]
        if path.suffix == ".parquet" or path.name.endswith(".parquet.copy"):
            parts.append(repr(pq.read_table(io.BytesIO(path.read_bytes())).to_pydict()).encode())
    return b"\n".join(parts)


def check_not_answered(folder: Path) -> None:
    store = FeatureStore.open(LocalBackend(folder))
    dataset = store.dataset("toy")
    assert (dataset.num_rows, dataset.num_videos) == (NUM_VIDEOS, NUM_VIDEOS - len(GONE))
    assert dataset.select().rows.tolist() == [r for r in range(NUM_VIDEOS) if r not in GONE]
    assert len(dataset.select("label IS NOT NULL")) == NUM_VIDEOS - len(GONE)
    with pytest.raises(NotFoundError):
        dataset.row_of(NAME)
    with pytest.raises(NotFoundError):
        dataset.select(video_ids=[NAME])
    for name in (FEATURE_SET, "other"):
        block = dataset.select(rows=range(NUM_VIDEOS)).features(CROPS, name)
        assert not block.valid[GONE].any()
        assert not block.values[GONE].any()
        assert not block.geometry[GONE].any()
        assert block.valid.sum() == 4 * (NUM_VIDEOS - len(GONE))
    assert not dataset.select(rows=GONE).embeddings("scale").values.any()
    assert [dataset.preview(row) for row in GONE] == [None] * len(GONE)
    assert dataset.preview(4) == picture(4)
    for query in ("SELECT * FROM toy.videos", "SELECT * FROM toy.ledger", "SELECT * FROM toy.geometry",
                  f'SELECT * FROM toy."{CROPS}/{FEATURE_SET}"'):  # fmt: skip
        assert NAME not in repr(store.sql(query).to_pydict())
    kept = [r for r in range(NUM_VIDEOS) if r not in GONE]
    before = make_geometry(np.array(kept), 4)
    np.testing.assert_array_equal(dataset.select().features(CROPS, FEATURE_SET).geometry, before)


def test_a_removed_video_is_in_no_answer_and_its_row_stays_taken(folder: Path) -> None:
    store = FeatureStore.open(folder, "a")
    dataset = store.dataset("toy")
    pinned = store.dataset("toy")
    assert dataset.remove_videos(GONE) == 2
    assert dataset.remove_videos(GONE) == 0
    check_not_answered(folder)
    assert pinned.row_of(NAME) == 3  # a handle keeps what it pinned
    assert dataset.status(CROPS, FEATURE_SET).to_pylist()[3] | {"seconds": 0.0} == {
        "row": 3, "video_id": "removed-3", "status": "removed", "error": "", "attempts": 2, "seconds": 0.0, "shard": 0,
        "generation": 1,
    }  # fmt: skip
    assert fill(store) == 0
    dataset.append_videos(video_table(3, first=NUM_VIDEOS))
    assert store.dataset("toy").select().rows.tolist()[-3:] == [20, 21, 22]
    assert fill(store) == 1
    assert verify_store(store).is_clean


def test_an_erased_video_is_in_no_byte(folder: Path, original: Path) -> None:
    wanted, whole = traces(original), every_byte(original)
    assert {name for name, data in wanted.items() if data not in whole} == set()
    store = FeatureStore.open(folder, "a")
    dataset = store.dataset("toy")
    before = dataset.select(rows=[4, 5]).features(CROPS, FEATURE_SET).values.copy()
    dataset.remove_videos(GONE, erase=True)
    assert any(p["kind"] == "unfinished erasure" for p in verify_store(store).table())
    erased = dataset.erase_removed()
    assert (erased.num_rows, erased.indexes, erased.reports) == (2, ("default",), ("r",))
    left = every_byte(folder)
    assert {name for name, data in wanted.items() if data in left} == set()
    check_not_answered(folder)
    np.testing.assert_array_equal(dataset.select(rows=[4, 5]).features(CROPS, FEATURE_SET).values, before)
    assert verify_store(store).is_clean
    assert verify_store(store, repair=True).is_clean
    assert dataset.videos["label"][3].as_py() == "c"  # row 4: the other label that was changed stays
    report = dataset.artifact("reports", "r")
    assert "report.html" not in report.files
    assert json.loads(report.read("report.json"))["results"] == [{"id": "knn", "top1": 0.5}]
    assert len(json.loads(report.read("report.json"))["strips"]) == 1
    assert pq.read_table(io.BytesIO(report.read("predictions.parquet"))).num_rows == NUM_VIDEOS - 2
    assert dataset.artifacts("models") == ["m"]
    assert dataset.erase_removed().num_rows == 0
    assert fill(store) == 0  # nothing of it is extracted again
    dataset.append_videos(video_table(2, first=NUM_VIDEOS))
    assert store.dataset("toy").num_videos == NUM_VIDEOS


@pytest.mark.slow
def test_an_erasure_that_fails_anywhere_goes_on(folder: Path, original: Path, tmp_path: Path) -> None:
    FeatureStore.open(folder, "a").dataset("toy").remove_videos(GONE, erase=True)
    counter = FaultPlan()
    counted = Path(shutil.copytree(folder, tmp_path / "counted"))
    FeatureStore.open(FaultyLocalBackend(counted, counter), "a").dataset("toy").erase_removed()
    wanted = traces(original)
    steps = np.linspace(0, counter.count - 1, 12).astype(int).tolist()
    for n in steps:
        place = Path(shutil.copytree(folder, tmp_path / f"at{n}"))
        action = ("fail", "tear", "late")[zlib.crc32(bytes([n % 256])) % 3]
        plan = FaultPlan(at=n, action=action, forever=True)
        with suppress(PipelineError, OSError):
            FeatureStore.open(FaultyLocalBackend(place, plan), "a").dataset("toy").erase_removed()
        check_not_answered(place)
        store = FeatureStore.open(place, "a")
        store.dataset("toy").erase_removed()
        left = every_byte(place)
        assert {name for name, data in wanted.items() if data in left} == set(), counter.log[n]
        verify_store(store, repair=True)  # what a dead writer left beside: a partial file, a pack without its copy
        assert verify_store(store).is_clean
        shutil.rmtree(place)


def test_a_feature_set_is_deleted_whole(folder: Path) -> None:
    store = FeatureStore.open(folder, "a")
    dataset = store.dataset("toy")
    assert dataset.drop_features(CROPS, "other") > 0
    assert dataset.feature_sets(CROPS) == [FEATURE_SET]
    assert not [p for p in (folder / "toy").rglob("*") if "other" in p.parts and p.is_file()]
    assert verify_store(store).is_clean
    assert dataset.drop_features(CROPS, FEATURE_SET) > 0
    assert verify_store(store).is_clean
    assert fill(store) == 5


def test_a_set_whose_folder_was_deleted_is_named_and_made_again(folder: Path) -> None:
    """`rm -r features/SET` leaves a ledger that calls every shard done."""
    store = FeatureStore.open(folder, "a")
    shutil.rmtree(folder / f"toy/crops/{CROPS}/features/{FEATURE_SET}")
    shutil.rmtree(folder / f"toy/_copies/crops/{CROPS}/features/{FEATURE_SET}", ignore_errors=True)
    found = verify_store(store).table()
    assert any(p["where"].endswith(f"ledger/{FEATURE_SET}") and "--features" in p["what"] for p in found)
    assert fill(store) == 5
    assert store.dataset("toy").select().features(CROPS, FEATURE_SET).valid.all()
    assert verify_store(store).is_clean


def test_a_feature_set_of_which_something_is_left_is_damaged_and_not_begun_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=10)
    group = tmp_path / f"s/toy/crops/{CROPS}/features/{FEATURE_SET}/zarr.json"
    group.unlink()
    assert fill(store) == 0
    assert group.exists()
    assert verify_store(store).is_clean
