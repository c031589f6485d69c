"""The store's everyday life: what goes in comes out, nothing is redone, a pinned reader keeps its snapshot."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from pipeline import FeatureStore, RowStatus
from pipeline.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptDataError,
    FingerprintMismatchError,
    ForkError,
    InvalidInputError,
    NotFoundError,
    ShapeMismatchError,
    SnapshotChangedError,
    StoreNotFoundError,
    VideoChangedError,
)
from pipeline.recipe import GridPolicy, RandomPolicy
from pipeline.verify.verify_store import verify_store
from tests.support.stores import (
    CROPS,
    FEATURE_SET,
    FINGERPRINT,
    fill,
    fill_embeddings,
    make_geometry,
    make_store,
    make_values,
    video_table,
)


def expected(num_rows: int, num_crops: int = 4, dim: int = 16, bad: tuple[int, ...] = ()) -> np.ndarray:
    values = make_values(np.arange(num_rows), num_crops, dim).astype(np.float16)
    values[list(bad)] = 0
    return values


def test_everything_comes_back(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=21, statuses={3: "unreadable", 20: "partial"})
    ds = store.dataset("toy")
    block = ds.select().features(CROPS, FEATURE_SET)
    np.testing.assert_array_equal(block.values, expected(21, bad=(3,)))
    np.testing.assert_array_equal(block.valid.all(axis=1), np.arange(21) != 3)
    boxes = make_geometry(np.arange(21), 4)
    boxes[3] = 0
    np.testing.assert_array_equal(block.geometry, boxes)
    status = ds.status(CROPS, FEATURE_SET)
    assert status["status"].to_pylist() == [
        "unreadable" if i == 3 else "partial" if i == 20 else "ok" for i in range(21)
    ]
    assert fill(store) == 0
    info = ds.feature_info(CROPS, FEATURE_SET)
    assert (info.num_shards, info.num_shards_done, info.num_crops, info.dim) == (3, 3, 4, 16)
    assert verify_store(store).is_clean


def test_whole_shards_are_views_and_others_are_copies(tmp_path: Path) -> None:
    ds = make_store(tmp_path / "s", num_videos=24, dim=80_000, num_crops=1).dataset("toy")
    inside = ds.select(rows=range(8, 16)).features(CROPS, FEATURE_SET)
    assert not inside.values.flags.writeable
    assert inside.values.strides[0] == 160_064  # a row, its checksum, up to the next cache line: the file itself
    assert inside.values.ctypes.data % 64 == 0
    across = ds.select(rows=range(7, 17)).features(CROPS, FEATURE_SET)
    assert across.values.flags.writeable
    np.testing.assert_array_equal(across.values[1:9], inside.values)


def test_plain_zarr_and_pyarrow_open_everything(tmp_path: Path) -> None:
    """None of our code is imported in the process that reads."""
    make_store(tmp_path / "s", num_videos=19, labels=[f"l{i}" for i in range(19)])
    code = f"""
import sys, numpy as np, pyarrow.parquet as pq, zarr
root = zarr.open_group({str(tmp_path / "s")!r}, mode="r")
values = root["toy/crops/{CROPS}/features/{FEATURE_SET}/values"][:]
valid = root["toy/crops/{CROPS}/features/{FEATURE_SET}/valid"][:]
geometry = root["toy/crops/{CROPS}/geometry"][:]
videos = pq.read_table({str(tmp_path / "s/toy/catalog/videos-0.parquet")!r})
whole = pq.read_table({str(tmp_path / "s/toy/catalog")!r})
ledger = pq.read_table({str(tmp_path / f"s/toy/crops/{CROPS}/ledger/{FEATURE_SET}/0-0.parquet")!r})
assert valid.all() and videos.num_rows == whole.num_rows == 19 and ledger.column("status").to_pylist() == ["ok"] * 8
assert not [m for m in sys.modules if m.split(".")[0] == "pipeline"]
np.savez(sys.argv[1], values=values, geometry=geometry)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "out.npz")], check=True, cwd=tmp_path)
    read = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(read["values"], expected(19))
    np.testing.assert_array_equal(read["geometry"], make_geometry(np.arange(19), 4))


def test_compressed_arrays_give_the_same_results(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=19)
    before = store.dataset("toy").select().features(CROPS, FEATURE_SET)
    folder = tmp_path / f"s/toy/crops/{CROPS}/features/{FEATURE_SET}/values"
    plain = zarr.open_array(folder, mode="r")[:]
    again = zarr.create_array(
        folder, shape=plain.shape, dtype=plain.dtype, chunks=(2, 4, 16), shards=(8, 4, 16), overwrite=True
    )
    again[:] = plain
    ds = store.dataset("toy")
    after = ds.select().features(CROPS, FEATURE_SET)
    np.testing.assert_array_equal(before.values, after.values)
    batches = np.concatenate([b.values for b in ds.select().batches(CROPS, FEATURE_SET, 5, shuffle=False)])
    np.testing.assert_array_equal(batches, before.values)
    with pytest.raises(ConflictError, match=r"another\s+program"):
        ds.writer(CROPS, FEATURE_SET, dict(FINGERPRINT, dtype="float16"), 16)


def test_an_append_extends_the_half_full_shard_and_a_pinned_reader_sees_nothing_of_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=12)
    old = store.dataset("toy")
    snapshot = old.snapshot()
    late = store.dataset("toy")  # pinned before the append, first read after it
    store.dataset("toy").append_videos(video_table(9, first=12))
    assert fill(store) == 2
    for pinned in (old, late):
        assert (pinned.num_rows, pinned.videos.num_rows) == (12, 12)
        np.testing.assert_array_equal(pinned.select().features(CROPS, FEATURE_SET).values, expected(12))
        assert set(pinned.status(CROPS, FEATURE_SET)["generation"].to_pylist()) == {0}
        assert pinned.snapshot() == snapshot
    new = old.refresh()
    np.testing.assert_array_equal(new.select().features(CROPS, FEATURE_SET).values, expected(21))
    assert new.snapshot() != snapshot
    assert new.status(CROPS, FEATURE_SET)["generation"].to_pylist() == [0] * 8 + [1] * 8 + [0] * 5


def test_appended_videos_are_pending_until_they_are_done(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=12)
    store.dataset("toy").append_videos(video_table(3, first=12))
    ds = store.dataset("toy")
    block = ds.select().features(CROPS, FEATURE_SET)
    assert not block.valid[12:].any()
    assert not block.values[12:].any()
    assert ds.status(CROPS, FEATURE_SET)["status"].to_pylist() == ["ok"] * 12 + ["pending"] * 3
    tasks = ds.writer(CROPS, FEATURE_SET, dict(FINGERPRINT, dtype="float16"), 16).todo()
    assert [(t.shard, t.rows.tolist(), t.generation, t.reason) for t in tasks] == [(1, [12, 13, 14], 1, "appended")]


def test_a_retry_redoes_its_rows_and_a_pinned_reader_never_gets_them(tmp_path: Path) -> None:
    valid = np.ones((12, 4), bool)
    valid[5, 2:] = False
    store = make_store(tmp_path / "s", num_videos=12, valid=valid, statuses={5: "partial", 9: "unreadable"})
    pinned = store.dataset("toy")
    fill(store, retry=["partial", "unreadable"], salt=0)
    old = pinned.select(rows=[4, 6, 9]).features(CROPS, FEATURE_SET)
    assert old.valid.any(axis=1).tolist() == [True, True, False]
    with pytest.raises(SnapshotChangedError, match="refresh"):
        pinned.select(rows=[5]).features(CROPS, FEATURE_SET)
    new = pinned.refresh()
    np.testing.assert_array_equal(new.select().features(CROPS, FEATURE_SET).values, expected(12))
    status = new.status(CROPS, FEATURE_SET)
    assert status["status"].to_pylist() == ["ok"] * 12
    assert status["attempts"].to_pylist() == [2 if i in (5, 9) else 1 for i in range(12)]


def test_two_backbones_share_geometry_and_must_agree_on_it(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=12, statuses={2: "unreadable"})
    assert fill(store, feature_set="other", statuses={3: "unreadable"}) == 2
    ds = store.dataset("toy")
    for name, bad in ((FEATURE_SET, 2), ("other", 3)):
        block = ds.select().features(CROPS, name)
        boxes = make_geometry(np.arange(12), 4)
        boxes[bad] = 0
        np.testing.assert_array_equal(block.geometry, boxes)
    with pytest.raises(ConflictError, match="geometry of row 0"):
        fill(store, feature_set="third", geometry=make_geometry(np.arange(100, 112), 4))


def test_the_gate_names_the_field_that_differs(tmp_path: Path) -> None:
    ds = make_store(tmp_path / "s", num_videos=4).dataset("toy")
    other = dict(FINGERPRINT, dtype="float16", decoder={"name": "none", "version": "2"})
    with pytest.raises(FingerprintMismatchError, match=r"decoder\.version") as caught:
        ds.writer(CROPS, FEATURE_SET, other, 16)
    assert caught.value.fields == ("decoder.version",)
    ds.append_videos(video_table(8, first=4))
    writer = ds.writer(CROPS, FEATURE_SET, other, 16, accept=["decoder.version"])
    task = writer.todo()[0]
    rows = task.rows
    entry = writer.write(
        task, make_values(rows, 4, 16), np.ones((len(rows), 4), bool), make_geometry(rows, 4),
        [RowStatus(r, "ok") for r in rows.tolist()],
    )  # fmt: skip
    assert entry.differing == {"decoder.version": ["1", "2"]}
    with pytest.raises(FingerprintMismatchError):
        ds.writer(CROPS, FEATURE_SET, dict(FINGERPRINT, dtype="float16"), 17)
    with pytest.raises(FingerprintMismatchError, match=r"temporal|policy"):
        ds.define_crop_set(CROPS, GridPolicy(policy="grid", temporal=2, spatial=2))


def test_values_that_cannot_be_stored_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path / "s")
    ds = store.create_dataset("toy", shard_rows=4)
    ds.append_videos(video_table(4))
    ds.define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=2))
    writer = ds.writer(CROPS, FEATURE_SET, FINGERPRINT, 3)
    (task,) = writer.todo()
    good, boxes = np.ones((4, 2), bool), make_geometry(task.rows, 2)
    lines = [RowStatus(r, "ok") for r in range(4)]
    for poison in (np.nan, np.inf, 1e6):
        values = np.zeros((4, 2, 3), np.float32)
        values[2, 1, 0] = poison
        with pytest.raises(InvalidInputError, match=r"row\(s\) \[2\]"):
            writer.write(task, values, good, boxes, lines)
        masked = good.copy()
        masked[2, 1] = False
        writer._checked_arrays(task, values, masked, lines)  # what is masked may be anything
    with pytest.raises(ShapeMismatchError):
        writer.write(task, np.zeros((4, 2, 4), np.float32), good, boxes, lines)
    with pytest.raises(ShapeMismatchError):
        writer.write(task, np.zeros((4, 2, 3), np.float32), good, boxes, lines[::-1])
    with pytest.raises(InvalidInputError):
        writer.write(task, np.zeros((4, 2, 3)), good, boxes, [RowStatus(r, "fine") for r in range(4)])
    assert len(writer.todo()) == 1
    writer.write(task, np.zeros((4, 2, 3), np.float32), good, boxes, lines)
    with pytest.raises(AlreadyExistsError):
        writer.write(task, np.zeros((4, 2, 3), np.float32), good, boxes, lines)


def test_the_catalogue_refuses_changed_videos_and_counts_known_ones(tmp_path: Path) -> None:
    ds = FeatureStore.create(tmp_path / "s").create_dataset("toy")
    assert ds.append_videos(video_table(5)).num_new == 5
    again = ds.append_videos(video_table(8))
    assert (again.num_new, again.num_known, again.first_row, again.num_rows) == (3, 5, 5, 8)
    changed = video_table(1).set_column(3, "sha256", pa.array(["f" * 64]))
    with pytest.raises(VideoChangedError, match="000000"):
        ds.append_videos(changed)
    assert ds.refresh().num_rows == 8
    assert ds.row_of("videos/000006.mp4") == 6
    with pytest.raises(NotFoundError):
        ds.select(video_ids=["nope.mp4"])


@pytest.mark.parametrize("num_scans", [0, 100])
def test_videos_are_found_by_id(tmp_path: Path, num_scans: int) -> None:
    """By a scan of the ids and, after some lookups, by a dict of them: the same rows, the same refusals."""
    ds = FeatureStore.create(tmp_path / "s").create_dataset("toy")
    for first in (0, 7):  # two catalogue files
        ds.append_videos(video_table(7, first=first))
    ids = ds.videos["video_id"].to_pylist()
    for _ in range(num_scans):
        ds.row_of(ids[3])
    assert [ds.row_of(video_id) for video_id in ids] == list(range(14))
    assert ds.select(video_ids=[ids[9], ids[2], ids[9]]).rows.tolist() == [9, 2, 9]
    assert ds.select(video_ids=iter(ids)).rows.tolist() == list(range(14))
    assert ds.select(video_ids=[]).rows.tolist() == []
    for unknown in ("nope.mp4", "", "\udc80", 3, None, b"videos/000001.mp4"):
        with pytest.raises(NotFoundError, match="expected a video id"):
            ds.row_of(unknown)  # type: ignore[arg-type]
        with pytest.raises(NotFoundError, match="expected a video id"):
            ds.select(video_ids=[ids[1], unknown, ids[2]])  # type: ignore[list-item]


def test_embeddings_and_artifacts(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=20)
    vectors = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
    fill_embeddings(store, "scale", vectors, attrs={"readout": "cls"})
    ds = store.dataset("toy")
    block = ds.select(rows=[1, 9, 19]).embeddings("scale")
    np.testing.assert_array_equal(block.values, vectors[[1, 9, 19]])
    assert ds.embedding_sets() == ["scale"]
    assert ds.embedding_info("scale").attrs == {"readout": "cls"}
    ds.save_artifact("models", "m", {"weights.bin": b"old", "extra.bin": b"x"}, {"v": 1})
    held = ds.artifact("models", "m")
    ds.save_artifact("models", "m", {"weights.bin": b"new"}, {"v": 2})
    assert ds.artifact("models", "m").read("weights.bin") == b"new"
    assert ds.artifact("models", "m").meta == {"v": 2}
    assert held.read("weights.bin") == b"old"  # versions stay until they are pruned
    assert ds.artifact("models", "m@1").read("extra.bin") == b"x"
    path = ds.artifact("models", "m").local_path("weights.bin")
    path.write_bytes(b"bad")
    with pytest.raises(CorruptDataError):
        ds.artifact("models", "m").read("weights.bin")


def test_names_say_what_exists(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFoundError):
        FeatureStore.open(tmp_path / "none")
    store = make_store(tmp_path / "s", num_videos=4)
    with pytest.raises(AlreadyExistsError):
        FeatureStore.create(tmp_path / "s")
    with pytest.raises(NotFoundError, match="toy"):
        store.dataset("absent")
    with pytest.raises(NotFoundError, match=FEATURE_SET):
        store.dataset("toy").select().features(CROPS, "absent")
    with pytest.raises(ConflictError):
        store.create_dataset("toy", shard_rows=9)
    reading = FeatureStore.open(tmp_path / "s").dataset("toy")
    with pytest.raises(ConflictError, match="mode='a'"):
        reading.append_videos(video_table(1, first=9))


def test_claims_share_the_work_and_die_with_their_process(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=4)
    store.dataset("toy").append_videos(video_table(12, first=4))
    writer = store.dataset("toy").writer(CROPS, FEATURE_SET, dict(FINGERPRINT, dtype="float16"), 16)
    task, second = writer.todo()
    claim = writer.claim(task)
    assert claim is not None
    assert writer.claim(task) is None
    other = writer.claim(second)
    assert other is not None
    other.release()
    claim.release()
    with writer.claim(task) as held:
        assert not held.is_lost
    code = f"""
import os, signal
from pipeline import FeatureStore
from tests.support.stores import FINGERPRINT
ds = FeatureStore.open({str(tmp_path / "s")!r}, "a").dataset("toy")
w = ds.writer({CROPS!r}, {FEATURE_SET!r}, dict(FINGERPRINT, dtype="float16"), 16)
assert w.claim(w.todo()[0]) is not None
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False)
    taken = writer.claim(task, ttl_s=300)  # at once: the owner is known to be dead
    assert taken is not None
    taken.release()


def test_an_expired_claim_is_taken_over_by_exactly_one(tmp_path: Path) -> None:
    from pipeline.storage.claims import Claims
    from pipeline.storage.opening import open_backend

    now = [1000.0]
    claims = Claims(open_backend(tmp_path), "claims", clock=lambda: now[0])
    first = claims.claim("7", ttl_s=3600)
    now[0] += 3601
    second = claims.claim("7", ttl_s=3600)
    assert first is not None
    assert second is not None
    assert claims.claim("7") is None
    first._claims._newest("7")
    second.release()


def _use_after_fork(store: FeatureStore, answers: multiprocessing.Queue[str]) -> None:
    try:
        store.datasets()
    except ForkError as err:
        answers.put(str(err))
    else:
        answers.put("worked")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_store_refuses_to_work_after_a_fork(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=4)
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_use_after_fork, args=(store, answers))
    child.start()
    assert "spawn" in answers.get(timeout=30)
    child.join()


def test_importing_is_cheap() -> None:
    code = "import time; t = time.perf_counter(); import pipeline; print(time.perf_counter() - t)"
    best = min(float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                                    cwd=Path(__file__).parents[2]).stdout) for _ in range(3))  # fmt: skip
    assert best < 0.5


def test_one_video_by_id_is_quick(tmp_path: Path) -> None:
    ds = make_store(tmp_path / "s", num_videos=64).dataset("toy")
    ds.select(video_ids=["videos/000001.mp4"]).features(CROPS, FEATURE_SET)
    taken = []
    for number in range(10, 60, 8):
        start = time.process_time()
        ds.select(video_ids=[f"videos/{number:06d}.mp4"]).features(CROPS, FEATURE_SET)
        taken.append(time.process_time() - start)
    assert min(taken) < 0.005  # processor time: other work on the machine does not count


def test_snapshots_count_what_is_asked(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", num_videos=12)
    before = store.dataset("toy")
    fill(store, feature_set="other")
    after = store.dataset("toy")
    assert before.snapshot(CROPS, FEATURE_SET) == after.snapshot(CROPS, FEATURE_SET)
    assert before.snapshot() != after.snapshot()
    assert pq.read_metadata(tmp_path / "s/toy/catalog/videos-0.parquet").num_rows == 12
