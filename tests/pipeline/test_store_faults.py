"""A store whose disk fails, tears, lies or is pulled out at any instant: nothing wrong is returned, nothing is lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, FormatError, PipelineError, SnapshotChangedError
from pipeline.store.compact import compact_store
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, make_values, video_table

ROOT = Path(__file__).parents[2]
DIM, V = 16, 4


def check(folder: Path, num_rows: int | None = None, *, complete: bool = False, bad: tuple[int, ...] = ()) -> None:
    """Every row that is served is the row that was written; with `complete`, every row is."""
    ds = FeatureStore.open(folder).dataset("toy")
    if num_rows is not None:
        assert ds.num_rows == num_rows
    ids = ds.videos["video_id"].to_pylist()
    assert ids == [f"videos/{i:06d}.mp4" for i in range(ds.num_rows)]
    try:
        block = ds.select().features(CROPS, FEATURE_SET)
    except PipelineError as err:
        if type(err).__name__ != "NotFoundError":
            raise
        assert not complete
        return
    values = make_values(np.arange(ds.num_rows), V, DIM).astype(np.float16)
    there = block.valid.any(axis=1)
    np.testing.assert_array_equal(
        block.values[there & block.valid.all(axis=1)], values[there & block.valid.all(axis=1)]
    )
    assert not block.values[~there].any()
    if complete:
        assert there.tolist() == [i not in bad for i in range(ds.num_rows)]


def append_and_retry(folder: Path, plan: FaultPlan) -> None:
    """Append to a half-full shard, extract, and retry a partial row, on a disk with a plan."""
    store = FeatureStore.open(FaultyLocalBackend(folder, plan), mode="a")
    store.dataset("toy").append_videos(video_table(7, first=6))
    fill(store)
    fill(store, retry=["partial"])


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 6 videos, shard of 4: one shard half full, row 2 partial."""
    folder = tmp_path_factory.mktemp("start") / "s"
    valid = np.ones((6, V), bool)
    valid[2, 2:] = False
    make_store(folder, num_videos=6, shard_rows=4, valid=valid, statuses={2: "partial"})
    return folder


@pytest.mark.parametrize(("action", "first"), [("fail", 0), ("tear", 3), ("late", 6)])
def test_a_step_fails(start: Path, tmp_path: Path, action: str, first: int) -> None:
    fail_steps(start, tmp_path, action, first, 9)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("action", ["fail", "tear", "late"])
def test_whatever_step_fails(start: Path, tmp_path: Path, action: str) -> None:
    fail_steps(start, tmp_path, action, 0, 1)


def fail_steps(start: Path, tmp_path: Path, action: str, first: int, every: int) -> None:
    """Let every n-th step go wrong: the store stays right, and running again finishes the work."""
    counter = FaultPlan()
    shutil.copytree(start, tmp_path / "count")
    append_and_retry(tmp_path / "count", counter)
    assert counter.count > 60
    for n in range(first, counter.count, every):
        folder = tmp_path / f"{n}"
        shutil.copytree(start, folder)
        pinned = FeatureStore.open(folder).dataset("toy")
        with suppress(PipelineError):
            append_and_retry(folder, FaultPlan(at=n, action=action))
        check(folder)
        with suppress(SnapshotChangedError):
            old = pinned.select().features(CROPS, FEATURE_SET)
            assert len(old) == 6
            assert old.valid.sum(axis=1).tolist() == [4, 4, 2, 4, 4, 4]
        store = FeatureStore.open(folder, "a")
        store.dataset("toy").append_videos(video_table(13))
        fill(store)
        fill(store, retry=["partial"])
        check(folder, 13, complete=True)
        verify_store(store, repair=True)
        assert verify_store(store).problems == ()
        check(folder, 13, complete=True)
        shutil.rmtree(folder)


def test_a_full_disk_keeps_what_was_committed(start: Path, tmp_path: Path) -> None:
    for n in range(0, 80, 7):
        folder = tmp_path / f"{n}"
        shutil.copytree(start, folder)
        with suppress(PipelineError):
            append_and_retry(folder, FaultPlan(at=n, action="tear", forever=True))
        check(folder)
        shutil.rmtree(folder)


def test_a_retry_killed_between_values_and_ledger_loses_nothing(start: Path, tmp_path: Path) -> None:
    """The committed bytes were set aside; readers find them, and repair puts them back."""
    counter = FaultPlan()
    shutil.copytree(start, tmp_path / "count")
    store = FeatureStore.open(FaultyLocalBackend(tmp_path / "count", counter), "a")
    fill(store, retry=["partial"])
    entry = next(i for i, line in enumerate(counter.log) if " create " in line and "0-1.parquet" in line)
    shutil.copytree(start, tmp_path / "s")
    with pytest.raises(PipelineError):
        fill(FeatureStore.open(FaultyLocalBackend(tmp_path / "s", FaultPlan(at=entry)), "a"), retry=["partial"])
    store = FeatureStore.open(tmp_path / "s", "a")
    block = store.dataset("toy").select().features(CROPS, FEATURE_SET)
    assert block.valid.sum(axis=1).tolist() == [4, 4, 2, 4, 4, 4]
    report = verify_store(store, repair=True)
    assert {p.kind for p in report.problems} == {"interrupted write"}
    assert report.is_clean
    block = store.dataset("toy").select().features(CROPS, FEATURE_SET)
    assert block.valid.sum(axis=1).tolist() == [4, 4, 2, 4, 4, 4]
    assert verify_store(store).problems == ()


def every_file(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def flip_loop(start: Path, tmp_path: Path, rounds: int, seed: int, pick: Callable[[Path], bool]) -> int:
    """Flip one byte, read everything, repair, run again; return how often the damage was noticed by reading."""
    rng = random.Random(seed)
    noticed = 0
    folder = tmp_path / "s"
    shutil.copytree(start, folder)
    for _ in range(rounds):
        path = rng.choice([p for p in every_file(folder) if pick(p)])
        original = path.read_bytes()
        place, bit = rng.randrange(len(original)), 1 << rng.randrange(8)
        path.write_bytes(original[:place] + bytes([original[place] ^ bit]) + original[place + 1 :])
        try:
            check(folder, 6)
        except FormatError:
            noticed += 1
        if rng.random() < 0.2:  # leave the damage and go on from the repaired store
            store = FeatureStore.open(folder, "a")
            report = verify_store(store, repair=True)
            assert report.problems, f"{path} byte {place} bit {bit} was not noticed"
            assert report.is_clean, report.table()
            fill(store)
            check(folder, 6, complete=True)
            assert verify_store(store).problems == ()
        else:
            path.write_bytes(original)
    return noticed


def is_data(path: Path) -> bool:
    """Whether a file is an array's or a table's; what a repair set aside is nobody's any more."""
    return "_replaced" not in path.parts and (path.suffix == ".parquet" or path.name.startswith("c."))


def test_a_flipped_byte_anywhere_is_never_returned(start: Path, tmp_path: Path) -> None:
    assert flip_loop(start, tmp_path, 150, 0, is_data) > 20


@pytest.mark.slow
def test_a_thousand_flipped_bytes(start: Path, tmp_path: Path) -> None:
    assert flip_loop(start, tmp_path, 1000, 1, is_data) > 200


def test_a_flipped_byte_in_metadata_is_never_a_wrong_value(start: Path, tmp_path: Path) -> None:
    rng = random.Random(2)
    for n in range(60):
        folder = tmp_path / "s"
        shutil.copytree(start, folder)
        path = rng.choice([p for p in every_file(folder) if p.name == "zarr.json"])
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        with suppress(PipelineError):
            check(folder, 6)
        shutil.rmtree(folder)
        assert n >= 0


def test_a_torn_or_missing_shard_is_found_dropped_and_redone(start: Path, tmp_path: Path) -> None:
    shards = [p.relative_to(start) for p in every_file(start) if p.name.startswith("c.")]
    for n, shard in enumerate(shards):
        for torn in (True, False):
            folder = tmp_path / f"{n}{torn}"
            shutil.copytree(start, folder)
            if torn:
                (folder / shard).write_bytes((folder / shard).read_bytes()[:-9])
            else:
                (folder / shard).unlink()
            with pytest.raises(CorruptDataError):
                FeatureStore.open(folder).dataset("toy").select().features(CROPS, FEATURE_SET)
            store = FeatureStore.open(folder, "a")
            assert not verify_store(store).is_clean
            assert verify_store(store, repair=True).is_clean
            fill(store)
            check(folder, 6, complete=True)
            assert verify_store(store).problems == ()


def test_verify_names_partial_files_and_orphans(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    shutil.copytree(start, folder)
    values = folder / f"toy/crops/{CROPS}/features/{FEATURE_SET}/values"
    (values / "c.0.0.0.abc.partial").write_bytes(b"half")
    (values / "c.9.0.0").write_bytes((values / "c.0.0.0").read_bytes())
    report = verify_store(FeatureStore.open(folder))
    assert {p.kind for p in report.problems} == {"partial file", "orphan"}
    assert not report.is_clean
    assert verify_store(FeatureStore.open(folder, "a"), repair=True).is_clean
    assert verify_store(FeatureStore.open(folder)).problems == ()


WORK = """
import sys, time
from pipeline import FeatureStore
from pipeline.errors import AlreadyExistsError
from pipeline.store.compact import compact_store
from tests.support.stores import fill, video_table
store = FeatureStore.open(sys.argv[1], "a")
print("ready", flush=True)
n = store.dataset("toy").num_rows
store.dataset("toy").append_videos(video_table(int(sys.argv[2])))
try:
    fill(store)
    compact_store(store, min_loose=1)
    fill(store, retry=["partial"])
    compact_store(store, min_loose=1)
except AlreadyExistsError:
    pass
"""


def kill_rounds(start: Path, tmp_path: Path, rounds: int, seed: int) -> None:
    """SIGKILL a worker at a random instant, again and again, in the same store."""
    rng = random.Random(seed)
    folder = tmp_path / "s"
    shutil.copytree(start, folder)
    num_rows = 6
    for _ in range(rounds):
        num_rows += rng.randrange(0, 4)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:  # forked before it opens any store, from a process that imported everything: quick to start
            os.close(read_end)
            try:
                os.write(write_end, b"1")
                store = FeatureStore.open(folder, "a")
                store.dataset("toy").append_videos(video_table(num_rows))
                fill(store)
                compact_store(store, min_loose=1)
                fill(store, retry=["partial"])
                compact_store(store, min_loose=1)
            finally:
                os._exit(0)
        os.close(write_end)
        os.read(read_end, 1)
        os.close(read_end)
        time.sleep(rng.random() ** 2 * 0.12)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        check(folder)
        if FeatureStore.open(folder).dataset("toy").num_rows > 60:
            shutil.rmtree(folder)
            shutil.copytree(start, folder)
            num_rows = 6
    store = FeatureStore.open(folder, "a")
    store.dataset("toy").append_videos(video_table(num_rows))
    fill(store)
    fill(store, retry=["partial"])
    check(folder, complete=True)
    verify_store(store, repair=True)
    assert verify_store(store).problems == ()
    check(folder, complete=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_random_instants(start: Path, tmp_path: Path) -> None:
    kill_rounds(start, tmp_path, 12, 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_at_random_instants_two_hundred_times(start: Path, tmp_path: Path) -> None:
    kill_rounds(start, tmp_path, 220, 1)


@pytest.mark.slow
def test_two_processes_write_the_same_store(start: Path, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    shutil.copytree(start, folder)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORK, str(folder), str(n)], cwd=ROOT, stdout=subprocess.PIPE)
        for n in (40, 40, 33)
    ]
    for worker in workers:
        assert worker.wait(timeout=120) == 0
    store = FeatureStore.open(folder, "a")
    fill(store)
    fill(store, retry=["partial"])
    check(folder, 40, complete=True)
    assert verify_store(store).problems == ()
