"""A backup is a store as it stood at one moment, however it was taken; what a copy lacks it says."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from flows.cli import run
from pipeline import FeatureStore, RowStatus
from pipeline.errors import ConflictError, PipelineError, StorageError, StoreNotFoundError
from pipeline.recipe import RandomPolicy
from pipeline.storage.backend_local import LocalBackend
from pipeline.verify.backup import backup_store
from pipeline.verify.verify_store import verify_store
from tests.support.damage import SHARD_ROWS, D, NoSync, V, id_of, numbers_of, read_everything, values_of, videos, work
from tests.support.faults import FaultPlan, FaultyLocalBackend
from tests.support.soak import Tally, soak
from tests.support.toy_stores import geometry_of

SOAK_COPIES = 200


def test_a_backup_is_the_store_and_the_next_one_brings_what_is_new(tmp_path: Path) -> None:
    source, dest = LocalBackend(tmp_path / "s", NoSync()), LocalBackend(tmp_path / "b", NoSync())
    store = FeatureStore.create(source)
    work(store, {"toy": 4})
    first = backup_store(source, dest)
    assert first.check.problems == ()
    assert FeatureStore.open(dest).dataset("toy").snapshot() == store.dataset("toy").snapshot()
    work(store)
    second = backup_store(source, dest)
    assert second.snapshots["toy"] == FeatureStore.open(dest).dataset("toy").snapshot()
    assert second.num_unchanged > 10
    assert read_everything(dest).is_whole
    assert backup_store(source, dest).num_copied == 0
    store.dataset("toy").drop_embeddings("e")
    backup_store(source, dest)
    assert FeatureStore.open(dest).dataset("toy").embedding_sets() == []
    shutil.rmtree(tmp_path / "s")
    shutil.copytree(tmp_path / "b", tmp_path / "s")
    with pytest.raises(ConflictError, match="found a backup"):
        FeatureStore.open(source, "a")
    (tmp_path / "s" / "_backup.json").unlink()
    work(FeatureStore.open(source, "a"))
    assert read_everything(source).is_whole
    assert verify_store(FeatureStore.open(source)).problems == ()


def test_a_backup_that_dies_holds_nothing_wrong_and_goes_on(tmp_path: Path) -> None:
    source = LocalBackend(tmp_path / "s", NoSync())
    store = FeatureStore.create(source)
    work(store, {"toy": 4})
    backup_store(source, tmp_path / "old")
    work(store)
    for at in range(0, 60, 12):
        shutil.copytree(tmp_path / "old", tmp_path / f"{at}")
        with suppress(StorageError):
            plan = FaultPlan(at=at, kinds=("put", "delete"), forever=True)
            backup_store(source, FaultyLocalBackend(tmp_path / f"{at}", plan))
        wrong = [fault for fault in read_everything(LocalBackend(tmp_path / f"{at}")).faults if "wrong" in fault]
        assert not wrong
        assert backup_store(source, tmp_path / f"{at}").check.is_clean
        assert read_everything(LocalBackend(tmp_path / f"{at}")).is_whole


def test_what_a_backup_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work(FeatureStore.create(LocalBackend(tmp_path / "s", NoSync())), {"toy": 2})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    with pytest.raises(ConflictError, match="other files"):
        backup_store(tmp_path / "s", tmp_path / "full")
    with pytest.raises(StoreNotFoundError):
        backup_store(tmp_path / "nothing", tmp_path / "b")
    assert run(["backup", str(tmp_path / "s"), str(tmp_path / "b"), "-q"]) == 0
    assert "every byte checked" in " ".join(capsys.readouterr().out.split())
    shard = next((tmp_path / "s").rglob("values/c.0*"))
    shard.write_bytes(shard.read_bytes()[:-3])
    assert run(["backup", str(tmp_path / "s"), str(tmp_path / "b2"), "-q"]) == 1
    assert "NOT whole" in " ".join(capsys.readouterr().out.split())


def copy_in_any_order(source: Path, dest: Path, rng: random.Random) -> None:
    """What `cp -r` or `rsync` does beside a run: file by file, in some order, what is gone meanwhile left out."""
    found = [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    rng.shuffle(found)
    for path in found:
        with suppress(FileNotFoundError):
            data = path.read_bytes()
            target = dest / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def grow(backend: LocalBackend, stop: threading.Event) -> None:
    """Append, extract with partial rows, retry them, again and again."""
    num_videos = 2
    while not stop.is_set():
        store = FeatureStore.open(backend, "a")
        store.dataset("toy").append_videos(videos("toy", 2) if num_videos == 2 else videos_up_to(num_videos))
        for retry in ((), ("partial",)):
            dataset = store.dataset("toy")
            numbers = numbers_of(dataset)
            writer = dataset.writer("a", "f", {"backbone": "af"}, D)
            for task in writer.todo(retry=retry):
                valid = np.ones((len(task), V), bool)
                valid[:, 1] = bool(retry)
                lines = [RowStatus(row, "ok" if retry else "partial") for row in task.rows.tolist()]
                boxes = geometry_of(numbers[task.rows], V)
                writer.write(task, values_of(numbers[task.rows], "af"), valid, boxes, lines)
        num_videos += 1
        if num_videos > 30:
            return


def videos_up_to(stop: int):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    return pa.table({"video_id": [id_of("toy", n) for n in range(stop)]})


def right_or_says(folder: Path) -> str:
    """Read a copy: every answer is right, or an error says what is missing."""
    try:
        dataset = FeatureStore.open(folder).dataset("toy")
        numbers = numbers_of(dataset)
        block = dataset.select().features("a", "f")
    except PipelineError:
        return "refused"
    there = block.valid
    right = values_of(numbers, "af")
    assert np.array_equal(block.values[there], right[there])
    assert not block.values[~there].any()
    assert np.array_equal(np.sort(numbers), np.arange(len(numbers)))
    return "right"


def copies(tmp_path: Path, seed: int) -> Iterator[str]:
    """Copy a store beside a run that makes it anew when it has grown; yield what became of each copy, for ever."""
    rng = random.Random(seed)
    for number in itertools.count():
        source = tmp_path / f"s{number}"
        backend = LocalBackend(source, NoSync())
        dataset = FeatureStore.create(backend).create_dataset("toy", shard_rows=SHARD_ROWS)
        dataset.define_crop_set("a", RandomPolicy(policy="random", num_crops=V))
        stop = threading.Event()
        worker = threading.Thread(target=grow, args=(backend, stop))
        worker.start()
        try:
            while worker.is_alive():
                stop.wait(rng.random() * 0.02)
                copy_in_any_order(source, tmp_path / "copy", rng)
                yield right_or_says(tmp_path / "copy")
                shutil.rmtree(tmp_path / "copy")
        finally:
            stop.set()
            worker.join()
        shutil.rmtree(source)


def test_plain_copies_beside_a_run_are_right_or_say_what_they_lack(tmp_path: Path) -> None:
    made = copies(tmp_path, 0)
    assert set(itertools.islice(made, 15)) <= {"right", "refused"}
    made.close()


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_plain_copies_at_two_hundred_instants(tmp_path: Path) -> None:
    made = copies(tmp_path, time.time_ns())

    def one(number: int, tally: Tally) -> None:
        tally.counts["copy"].update({"rounds": 1, next(made): 1})

    assert soak("plain-copies", SOAK_COPIES, one).total()["right"] > 0
    made.close()
