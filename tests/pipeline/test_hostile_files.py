"""Files that no writer made, or that lie: refused with a clear error or passed over, nothing hangs, nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import FeatureStore
from pipeline.errors import (
    ConflictError,
    CorruptDataError,
    SchemaVersionError,
    SetupError,
    ShapeMismatchError,
    StorageError,
)
from pipeline.recipe import RandomPolicy
from pipeline.storage.backend_local import Disk, LocalBackend
from pipeline.storage.schema import SCHEMA_VERSION, shard_of
from pipeline.storage.sealed import seal
from pipeline.verify.verify_store import verify_store
from tests.support.stores import CROPS, FEATURE_SET, fill, make_store, make_values, video_table

LEDGER = f"toy/crops/{CROPS}/ledger/{FEATURE_SET}"
VALUES = f"toy/crops/{CROPS}/features/{FEATURE_SET}/values"
CATALOGUE = "toy/catalog"
WANT = make_values(np.arange(12), 4, 16).astype(np.float16)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_store(tmp_path / "s", num_videos=12)
    return tmp_path / "s"


def read_everything(root: Path) -> None:
    """Read in every way; what comes back is right."""
    store = FeatureStore.open(root)
    ds = store.dataset("toy")
    np.testing.assert_array_equal(ds.select(rows=range(12)).features(CROPS, FEATURE_SET).values, WANT)
    assert ds.status(CROPS, FEATURE_SET)["status"].to_pylist()[:12] == ["ok"] * 12
    assert store.sql("SELECT count(*) AS n FROM toy.ledger WHERE row < 12").to_pylist() == [{"n": 12}]
    assert ds.snapshot()


def repair(root: Path) -> None:
    """Repair, run again, and have everything back."""
    store = FeatureStore.open(root, "a")
    report = verify_store(store, repair=True)
    assert report.problems
    assert report.is_clean, report.table()
    fill(store)
    read_everything(root)
    assert verify_store(store).problems == ()


def reseal(path: Path, change: Callable[[pa.Table, dict[str, str]], pa.Table | None]) -> None:
    """Forge a Parquet file of the store: change it and seal it again."""
    table = pq.read_table(path)
    raw = pq.read_metadata(path).metadata
    metadata = {k.decode(): v.decode() for k, v in raw.items() if k not in (b"ARROW:schema", b"scale.seal")}
    changed = change(table, metadata)
    path.write_bytes(seal((table if changed is None else changed).replace_schema_metadata(None), metadata))


@pytest.mark.parametrize(
    "name",
    ["0-0.parquet.bak", "-1-0.parquet", "x-y.parquet", "00-1.parquet", "0-01.parquet", "٠-1.parquet", "²-1.parquet",
     "0-99999999999999999999999999.parquet", "99999999999999999999999999-0.parquet", "a0-1.parquet"],
)  # fmt: skip
def test_files_that_are_no_ledger_entries_are_passed_over(root: Path, name: str) -> None:
    (root / LEDGER / name).write_bytes((root / LEDGER / "0-0.parquet").read_bytes())
    read_everything(root)
    assert fill(FeatureStore.open(root, "a")) == 0
    assert verify_store(FeatureStore.open(root)).problems == ()


@pytest.mark.parametrize(
    "name", ["c.x.0.0", "c.²", "c.-1.0.0", "c.00.0.0", "c", "c.1.0.0.partial", "C.0", "c.9" + "9" * 30]
)
def test_files_that_are_no_shards_are_passed_over(root: Path, name: str) -> None:
    for folder in (VALUES, f"toy/crops/{CROPS}/geometry"):
        (root / folder / name).write_bytes(b"x")
    assert shard_of(f"{VALUES}/{name}") is None
    read_everything(root)
    assert not any(p.kind == "orphan" for p in verify_store(FeatureStore.open(root)).problems)


def test_an_entry_of_a_shard_without_videos_is_removed_by_repair(root: Path) -> None:
    (root / LEDGER / "77-0.parquet").write_bytes((root / LEDGER / "0-0.parquet").read_bytes())
    with pytest.raises(CorruptDataError, match="77-0"):
        read_everything(root)
    repair(root)


@pytest.mark.parametrize("number", ["99999999999999999999", "-1", "01", "٣"])
def test_files_that_are_no_catalogue_commits_are_passed_over(root: Path, number: str) -> None:
    (root / CATALOGUE / f"videos-{number}.parquet").write_bytes((root / CATALOGUE / "videos-0.parquet").read_bytes())
    read_everything(root)
    assert FeatureStore.open(root, "a").dataset("toy").append_videos(video_table(2, first=12)).first_row == 12


@pytest.mark.parametrize("number", [2, 99_999_999_999])
def test_a_catalogue_with_a_gap_says_so_at_once(root: Path, number: int) -> None:
    (root / CATALOGUE / f"videos-{number}.parquet").write_bytes((root / CATALOGUE / "videos-0.parquet").read_bytes())
    with pytest.raises(CorruptDataError, match=rf"no number 1.*remove number {number}"):
        FeatureStore.open(root).dataset("toy")
    report = verify_store(FeatureStore.open(root))
    assert any(p.kind == "damaged catalogue" and "no number 1" in p.what for p in report.problems)


def test_a_folder_in_place_of_the_next_commit_does_not_hang(root: Path) -> None:
    (root / CATALOGUE / "videos-1.parquet").mkdir()
    with pytest.raises(ConflictError, match=r"videos-1\.parquet.*remove it"):
        FeatureStore.open(root, "a").dataset("toy").append_videos(video_table(2, first=12))


def test_a_pipe_in_place_of_a_shard_is_not_waited_for(root: Path) -> None:
    shard = root / VALUES / "c.0.0.0"
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(CorruptDataError, match="no such file"):
        read_everything(root)
    repair(root)


@pytest.mark.parametrize(
    "key", ["zarr.json", "toy/zarr.json", f"{CATALOGUE}/videos-0.parquet", f"{LEDGER}/0-0.parquet"]
)
def test_a_pipe_in_place_of_any_file_is_not_waited_for(root: Path, key: str) -> None:
    (root / key).unlink()
    os.mkfifo(root / key)
    backend = LocalBackend(root)
    with pytest.raises(Exception, match="no such file"):
        backend.read(key)
    with pytest.raises(Exception, match="no such file"):
        backend.read_range(key, 0, 1)


def test_a_folder_in_place_of_a_shard_is_named(root: Path) -> None:
    shard = root / VALUES / "c.0.0.0"
    shard.unlink()
    shard.mkdir()
    with pytest.raises(CorruptDataError, match="no such file"):
        read_everything(root)
    with pytest.raises(StorageError, match=r"c\.0\.0\.0.*move it away"):
        verify_store(FeatureStore.open(root, "a"), repair=True)
    shard.rmdir()
    repair(root)


def test_a_file_in_place_of_a_folder_is_named(root: Path) -> None:
    (root / "toy/models").write_text("not a folder")
    with pytest.raises(StorageError, match="move it away"):
        FeatureStore.open(root, "a").dataset("toy").save_artifact("models", "m", {"a": b"1"}, {})


def _entry(**changes: Any) -> Callable[[pa.Table, dict[str, str]], None]:
    def change(table: pa.Table, metadata: dict[str, str]) -> None:
        metadata["entry"] = json.dumps(json.loads(metadata["entry"]) | changes)

    return change


def _column(name: str, values: list[Any]) -> Callable[[pa.Table, dict[str, str]], pa.Table]:
    return lambda table, metadata: table.set_column(
        table.column_names.index(name), name, pa.array(values, table[name].type)
    )


FORGED_ENTRIES: dict[str, Callable[[pa.Table, dict[str, str]], pa.Table | None]] = {
    "another shard": _entry(shard=5),
    "another generation": _entry(generation=9),
    "rows before the first": _entry(row_start=-8, row_stop=0),
    "rows beyond counting": _entry(row_stop=1 << 62),
    "rows as texts": _entry(row_start="0"),
    "digests as a list": _entry(digests=[]),
    "versions as nothing": _entry(versions=None),
    "fewer rows": lambda table, metadata: table.slice(0, 3),
    "each row twice": lambda table, metadata: pa.concat_tables([table, table]),
    "rows of another shard": _column("row", list(range(50, 58))),
    "less than no valid crops": _column("num_valid", [-1] * 8),
    "no status": _column("status", [None] * 8),
    "a column less": lambda table, metadata: table.drop_columns(["values_crc32c"]),
    "a version that is no number": lambda table, metadata: metadata.update(schema_version="new"),
}


@pytest.mark.parametrize("name", FORGED_ENTRIES)
def test_a_forged_ledger_entry_is_refused_and_repaired(root: Path, name: str) -> None:
    reseal(root / LEDGER / "0-0.parquet", FORGED_ENTRIES[name])
    with pytest.raises(CorruptDataError, match=r"0-0\.parquet"):
        read_everything(root)
    repair(root)


@pytest.mark.parametrize("key", [f"{LEDGER}/0-0.parquet", f"{CATALOGUE}/videos-0.parquet"])
def test_a_file_of_a_newer_version_is_neither_read_nor_repaired_away(root: Path, key: str) -> None:
    newer = str(SCHEMA_VERSION + 1)
    reseal(root / key, lambda table, metadata: metadata.update(schema_version=newer))
    before = (root / key).read_bytes()
    with pytest.raises(SchemaVersionError, match=rf"schema version {SCHEMA_VERSION} or older, found {newer}"):
        read_everything(root)
    with pytest.raises(SchemaVersionError):
        fill(FeatureStore.open(root, "a"))
    with pytest.raises(SchemaVersionError):
        verify_store(FeatureStore.open(root, "a"), repair=True)
    assert (root / key).read_bytes() == before


class SilentLedger(LocalBackend):
    """A storage that does not answer when ledger entries are read."""

    def read(self, key: str) -> bytes:
        if key.startswith(LEDGER):
            raise StorageError(f"expected to read {key}, found no usable answer")
        return super().read(key)


def test_repair_drops_nothing_because_the_storage_did_not_answer(root: Path) -> None:
    before = sorted(p.name for p in (root / LEDGER).iterdir())
    with pytest.raises(StorageError, match="no usable answer"):
        verify_store(FeatureStore.open(SilentLedger(root), "a"), repair=True)
    assert sorted(p.name for p in (root / LEDGER).iterdir()) == before
    read_everything(root)


class ReadOnlyDisk(Disk):
    """A file system that is mounted read-only."""

    def write(self, path: Path, data: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))


def test_a_read_only_store_is_read_and_says_what_it_cannot_do(root: Path) -> None:
    FeatureStore.open(root, "a").dataset("toy").append_videos(video_table(3, first=12))
    store = FeatureStore.open(LocalBackend(root, ReadOnlyDisk()), "a")
    np.testing.assert_array_equal(store.dataset("toy").select(rows=range(12)).features(CROPS, FEATURE_SET).values, WANT)
    for action in (
        lambda: fill(store),
        lambda: store.dataset("toy").append_videos(video_table(1, first=20)),
        lambda: store.create_dataset("more"),
        lambda: store.dataset("toy").save_artifact("models", "m", {"a": b"1"}, {}),
    ):
        with pytest.raises(SetupError, match=r"Read-only file system; change the permissions"):
            action()
    read_everything(root)


@pytest.mark.parametrize("limit", [10, 600, 1_500])
def test_a_limit_on_file_sizes_is_named_and_the_next_run_finishes(root: Path, limit: int) -> None:
    FeatureStore.open(root, "a").dataset("toy").append_videos(video_table(40, first=12))
    code = f"""
import resource, signal
from pipeline import FeatureStore
from pipeline.errors import StorageError
from tests.support.stores import fill
store = FeatureStore.open({str(root)!r}, "a")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    fill(store)
except StorageError as err:
    print(err)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "File too large; raise the limit on the size of files" in done.stdout
    assert not list(root.rglob("*.partial"))
    read_everything(root)
    fill(FeatureStore.open(root, "a"))
    assert verify_store(FeatureStore.open(root)).problems == ()
    assert FeatureStore.open(root).dataset("toy").select().features(CROPS, FEATURE_SET).valid.all()


STRANGE_IDS = [
    "naïve/视频 ✓.mp4", "a" * 300 + ".mp4", "x\ny.mp4", "../../etc/passwd", "/abs/x", "..", ".", "C:\\x.mp4",
    "o'brien\".mp4", "%s{}", " lead", "trail ", "a,b;c\t.mp4", "é", "e\u0301", "nul\0id", "\u202eevil", "💥" * 100,
    "=1+1", "-rf",
]  # fmt: skip


def test_strange_video_ids_are_ids_and_nothing_else(tmp_path: Path) -> None:
    """They are kept as they are, found again, and lead nowhere."""
    n = len(STRANGE_IDS)
    store = FeatureStore.create(tmp_path / "in/s")
    ds = store.create_dataset("toy", shard_rows=8)
    ds.append_videos(pa.table({"video_id": STRANGE_IDS, "sha256": [f"{i:064x}" for i in range(n)]}))
    ds.define_crop_set(CROPS, RandomPolicy(policy="random", num_crops=4))
    fill(store)
    ds = FeatureStore.open(tmp_path / "in/s").dataset("toy")
    assert ds.videos["video_id"].to_pylist() == STRANGE_IDS
    assert [ds.row_of(video_id) for video_id in STRANGE_IDS] == list(range(n))
    for row, video_id in enumerate(STRANGE_IDS):
        assert ds.select(video_ids=[video_id]).rows.tolist() == [row]
    found = store.sql("SELECT v.video_id FROM toy.videos v JOIN toy.ledger l USING (row) ORDER BY row")
    assert found["video_id"].to_pylist() == STRANGE_IDS
    ds.select().to_hdf5(tmp_path / "in/x.h5", CROPS, FEATURE_SET)
    other = FeatureStore.create(tmp_path / "in/t")
    other.import_hdf5(tmp_path / "in/x.h5")
    assert other.dataset("toy").videos["video_id"].to_pylist() == STRANGE_IDS
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["s", "t", "x.h5"]


def test_ids_that_are_no_text_are_refused(root: Path) -> None:
    ds = FeatureStore.open(root, "a").dataset("toy")
    offsets, letters = pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xfe")
    for ids in (pa.array([b"\xff\xfe"]), pa.StringArray.from_buffers(1, offsets, letters)):
        with pytest.raises(ShapeMismatchError, match="expected column video_id as string"):
            ds.append_videos(pa.table({"video_id": ids}))
    assert ds.refresh().num_rows == 12


def test_two_processes_that_append_lose_and_double_nothing(root: Path) -> None:
    code = f"""
import sys
from pipeline import FeatureStore
from tests.support.stores import video_table
ds = FeatureStore.open({str(root)!r}, "a").dataset("toy")
for first in range(20, 90, 5):
    ds.append_videos(video_table(5, first=first + int(sys.argv[1])))
"""
    here = Path(__file__).parents[2]
    workers = [subprocess.Popen([sys.executable, "-c", code, str(shift)], cwd=here) for shift in (0, 3)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    ds = FeatureStore.open(root).dataset("toy")
    ids = ds.videos["video_id"].to_pylist()
    assert ids[:12] == video_table(12)["video_id"].to_pylist()
    assert sorted(ids[12:]) == video_table(73, first=20)["video_id"].to_pylist()
    assert ds.videos["row"].to_pylist() == list(range(85))
