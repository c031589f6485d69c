"""Ledgers that were compacted: the same answers, the same snapshot, whoever looks and whatever happens meanwhile."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore, RowStatus
from pipeline.errors import ConflictError, CorruptDataError, StorageError
from pipeline.sets.compaction import COMPACT_AFTER, Compacted, compact_ledger, forget_history
from pipeline.sets.ledger import Ledger
from pipeline.sets.ledger_names import Packs, list_generations, loose_generations, newest_generation, pack_numbers
from pipeline.sets.ledger_pack import PACK_SIZE, PackSize
from pipeline.store.compact import compact_store
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.stores import CROPS, FEATURE_SET, make_store, make_values, video_table

LEDGER = f"toy/crops/{CROPS}/ledger/{FEATURE_SET}"
NUM, SHARD_ROWS = 40, 4


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make_store(tmp_path / "s", num_videos=NUM, shard_rows=SHARD_ROWS, statuses={5: "unreadable", 6: "partial"})


def compact(store: FeatureStore, least: int = 1, size: PackSize = PACK_SIZE) -> Compacted:
    return compact_ledger(store.backend, LEDGER, min_loose=least, size=size)


def fresh(store: FeatureStore):
    return FeatureStore.open(store.url, mode="a").dataset("toy")


def answers(store: FeatureStore) -> tuple[object, ...]:
    ds = fresh(store)
    block = ds.select().features(CROPS, FEATURE_SET)
    info = ds.feature_info(CROPS, FEATURE_SET)
    status = ds.status(CROPS, FEATURE_SET)
    return ds.snapshot(), block.values.tobytes(), block.valid.tobytes(), status, info.num_shards_done


def retry(store: FeatureStore, salt: int) -> None:
    ds = fresh(store)
    writer = ds.writer(CROPS, FEATURE_SET, ds.feature_info(CROPS, FEATURE_SET).fingerprint, 16)
    for task in writer.todo(retry=["unreadable", "partial"]):
        n = len(task)
        reader = ds._reader(CROPS, FEATURE_SET)
        geometry = np.zeros((n, *reader.spec.array("geometry").layout.row_shape), np.float32)
        reader.read(task.rows, {"geometry": geometry})
        shape = geometry.shape[:2]
        geometry[~geometry.any(axis=(1, 2))] = 1
        writer.write(
            task, make_values(task.rows, shape[1], 16, salt), np.ones(shape, bool), geometry,
            [RowStatus(r, "partial") for r in task.rows.tolist()],
        )  # fmt: skip


def test_a_compacted_ledger_answers_as_before_and_changes_no_snapshot(store: FeatureStore) -> None:
    before = answers(store)
    assert compact(store) == Compacted(num_entries=10, num_packs=1)
    assert loose_generations(store.backend, LEDGER) == {}
    assert answers(store) == before
    assert verify_store(FeatureStore.open(store.url)).problems == ()
    assert compact(store) == Compacted()


def test_plain_pyarrow_reads_a_pack(store: FeatureStore) -> None:
    compact(store)
    table = pq.read_table(Path(store.url) / LEDGER / "packs/0.parquet")
    assert table["row"].to_pylist() == list(range(NUM))
    assert table["status"].to_pylist()[5] == "unreadable"
    assert set(table.column_names) >= {"shard", "generation", "values_crc32c", "video_key"}


def test_nothing_is_packed_that_does_not_pay(store: FeatureStore) -> None:
    assert compact(store, least=11) == Compacted()
    assert len(loose_generations(store.backend, LEDGER)) == 10


def test_handles_that_pinned_files_go_on_when_these_are_packed(store: FeatureStore) -> None:
    pinned, expected = fresh(store), answers(store)
    compact(store)
    retry(store, salt=1)  # a newer generation of shard 1
    compact(store)
    assert pinned.snapshot() == expected[0]
    rows = np.setdiff1d(np.arange(NUM), np.arange(4, 8))
    np.testing.assert_array_equal(
        pinned.select(rows=rows).features(CROPS, FEATURE_SET).values,
        fresh(store).select(rows=rows).features(CROPS, FEATURE_SET).values,
    )


def test_the_newest_generation_counts_wherever_it_lies(store: FeatureStore) -> None:
    for salt in range(1, 4):
        retry(store, salt)
        loose = answers(store)
        if salt % 2:
            compact(store)
        assert answers(store) == loose
    assert list_generations(store.backend, LEDGER)[1] == (0, 1, 2, 3)
    packs = Packs(store.backend, LEDGER)
    for expected in range(-1, 4):
        assert newest_generation(store.backend, LEDGER, 1, packs, expected) == 3
    assert newest_generation(store.backend, LEDGER, 99, packs, -1) == -1


def test_packs_grow_by_merging_and_a_full_one_stays(store: FeatureStore) -> None:
    size = PackSize(max_rows=24, lines_per_group=8)
    expected = answers(store)
    assert compact(store, size=size) == Compacted(num_entries=10, num_packs=2)  # 24 rows and 16
    full = (Path(store.url) / LEDGER / "packs/0.parquet").read_bytes()
    for num in (44, 48, 52, 60, 64):
        ds = fresh(store)
        ds.append_videos(video_table(num))
        extend(store)
        compact(store, size=size)
        packs = Packs(store.backend, LEDGER)
        assert packs.by_number[0].index.num_rows == 24
        covered = [packs.by_number[n].index.row_start for n in packs.by_number]
        assert sum(map(len, covered)) == len(np.unique(np.concatenate(covered)))
    assert (Path(store.url) / LEDGER / "packs/0.parquet").read_bytes() == full
    assert len(Packs(store.backend, LEDGER).by_number) <= 4
    ds = fresh(store)
    assert ds.select(rows=np.arange(NUM)).features(CROPS, FEATURE_SET).values.tobytes() == expected[1]
    assert set(list_generations(store.backend, LEDGER)) == set(range(16))
    assert verify_store(FeatureStore.open(store.url)).problems == ()


def extend(store: FeatureStore, compact_after: int = COMPACT_AFTER) -> None:
    ds = fresh(store)
    writer = ds.writer(CROPS, FEATURE_SET, ds.feature_info(CROPS, FEATURE_SET).fingerprint, 16)
    writer.compact_after = compact_after
    for task in writer.todo():
        shape = (len(task), writer.spec.num_crops)
        writer.write(
            task, make_values(task.rows, shape[1], 16), np.ones(shape, bool), np.ones((*shape, 9), np.float32),
            [RowStatus(r, "ok") for r in task.rows.tolist()],
        )  # fmt: skip


def test_a_writer_compacts_by_itself_and_lists_nobody_elses_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s", num_videos=0, shard_rows=1)
    fresh(store).append_videos(video_table(30))
    listed: list[str] = []
    original = type(store.backend).list

    def counted(self, prefix: str = "", *, recursive: bool = True):
        listed.append(prefix)
        return original(self, prefix, recursive=recursive)

    monkeypatch.setattr(type(store.backend), "list", counted)
    extend(store, compact_after=8)
    assert len(loose_generations(store.backend, LEDGER)) < 8
    assert listed.count(LEDGER) <= 4 + 3 * 2  # looks when it begins (and the line above), and two at each compaction
    assert fresh(store).feature_info(CROPS, FEATURE_SET).num_shards_done == 30


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("which", ["0.parquet", "_copies/0.parquet"])
def test_a_damaged_pack_is_served_from_its_copy_and_mended(store: FeatureStore, damage: str, which: str) -> None:
    expected = answers(store)
    compact(store)
    path = Path(store.url) / LEDGER / "packs" / which
    whole = path.read_bytes()
    for place in range(3, len(whole), max(1, len(whole) // 12)) if damage == "flip" else (len(whole) // 2,):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(whole[:place] if damage == "cut" else bytes(damaged))
        if damage == "gone":
            path.unlink()
        assert answers(store)[:3] == expected[:3]
        report = verify_store(FeatureStore.open(store.url, mode="a"), repair=True)
        kinds = {problem.kind for problem in report.problems}
        assert (kinds, report.is_clean) == ({"damaged ledger"}, True)
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["packs/8.parquet", "packs/_copies/8.parquet", "packs/_copies/0.parquet"])
def test_a_pack_under_another_name_is_named_and_set_aside(store: FeatureStore, name: str) -> None:
    """Its seal holds, so that nothing but what it says of itself tells; a copy alone once ended verify itself."""
    compact(store)
    retry(store, 1)
    expected = answers(store)
    compact(store)
    newest = max(pack_numbers(store.backend, LEDGER))
    store.backend.put(f"{LEDGER}/{name}", store.backend.read(f"{LEDGER}/packs/{newest}.parquet"))
    with suppress(CorruptDataError):  # or refused
        assert answers(store) == expected
    problems = verify(store).problems
    assert [(problem.kind, problem.where) for problem in problems if "another name" in problem.what]
    report = verify_store(FeatureStore.open(store.url, mode="a"), repair=True)
    assert report.is_clean
    assert answers(store) == expected
    assert verify(store).problems == ()


def test_a_pack_without_a_good_copy_is_an_error_and_its_shards_are_no_orphans(store: FeatureStore) -> None:
    compact(store)
    for which in ("0.parquet", "_copies/0.parquet"):
        path = Path(store.url) / LEDGER / "packs" / which
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CorruptDataError):
        fresh(store).snapshot()
    report = verify_store(FeatureStore.open(store.url, mode="a"), repair=True)
    assert not report.is_clean
    assert "orphan" not in {problem.kind for problem in report.problems}
    values = Path(store.url) / f"toy/crops/{CROPS}/features/{FEATURE_SET}/values"
    assert len(list(values.glob("c.*"))) == 10


def test_a_compaction_that_fails_anywhere_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    """Every write, rename, link, unlink and fsync of it fails once, before it happened and after."""
    expected, step = None, 0
    for action in ("fail", "late"):
        for step in range(200):
            folder = tmp_path / f"{action}-{step}"
            store = make_store(folder, num_videos=12, shard_rows=4)
            expected = answers(store)
            plan = FaultPlan(at=step, action=action)
            try:
                compact_ledger(FaultyLocalBackend(folder, plan), LEDGER, min_loose=1)
            except StorageError:
                assert plan.fired
            if not plan.fired:
                break
            assert answers(store) == expected
            assert {p.kind for p in verify(store).problems} <= {"partial file", "damaged ledger"}
            compact(store)
            assert answers(store) == expected
            assert set(list_generations(store.backend, LEDGER)) == {0, 1, 2}
        assert step > 10


def verify(store: FeatureStore):
    return verify_store(FeatureStore.open(store.url, mode="a"))


def test_compactions_beside_readers_and_a_writer(store: FeatureStore) -> None:
    stop, errors = threading.Event(), []

    def run(action) -> None:
        try:
            while not stop.is_set():
                action()
        except Exception as err:
            errors.append(err)
            stop.set()

    def read() -> None:
        ds = fresh(store)
        block = ds.select(rows=np.arange(8, NUM)).features(CROPS, FEATURE_SET)
        np.testing.assert_array_equal(block.values, first)
        ds.snapshot()

    first = fresh(store).select(rows=np.arange(8, NUM)).features(CROPS, FEATURE_SET).values.copy()
    threads = [threading.Thread(target=run, args=(action,)) for action in (read, lambda: compact(store), read)]
    for thread in threads:
        thread.start()
    for salt in range(6):
        retry(store, salt)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert list_generations(store.backend, LEDGER)[1] == tuple(range(7))
    assert Ledger(store.backend, LEDGER, binding=None).generations[1] == 6
    assert len(pack_numbers(store.backend, LEDGER)) >= 1


def test_a_store_is_compacted_whole_and_only_where_it_may_be_written(store: FeatureStore) -> None:
    expected = answers(store)
    with pytest.raises(ConflictError):
        compact_store(FeatureStore.open(store.url))
    opened = FeatureStore.open(store.url, mode="a")
    report = compact_store(opened)
    assert (report.num_ledgers, report.num_packs) == (1, 0)  # ten entries are not worth it
    assert "nothing" in report.summary()
    report = compact_store(opened, min_loose=2)
    assert (report.num_entries, report.num_packs) == (10, 1)
    assert "10 ledger entries" in report.summary()
    assert answers(store) == expected


def test_history_is_forgotten_in_files_and_packs_alike(store: FeatureStore) -> None:
    for salt in range(4):
        retry(store, salt)
        if salt < 2:
            compact(store)
    expected = answers(store)
    assert len(list_generations(store.backend, LEDGER)[1]) == 5
    assert forget_history(store.backend, LEDGER, [1, 77]) == 4
    assert list_generations(store.backend, LEDGER)[1] == (4,)
    assert answers(store) == expected
    assert len(pack_numbers(store.backend, LEDGER)) == len(
        Packs(store.backend, LEDGER).by_number
    )  # no old byte is left
    assert forget_history(store.backend, LEDGER, [1]) == 0
    assert verify_store(FeatureStore.open(store.url)).problems == ()
