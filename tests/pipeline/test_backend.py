"""The contract of a storage backend, on a local folder and on a real S3 API."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    PipelineError,
    SetupError,
    StorageError,
    UnsafeNameError,
)
from pipeline.storage.backend import StorageBackend, check_key
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.opening import open_backend
from tests.support.faults import ACTIONS, FaultPlan, FaultyLocalBackend

UNSAFE_KEYS = ["", "..", ".", "../a", "a/../b", "/etc/passwd", "a//b", "a/", "a\\b", "a/./b", "a\0b", "a\nb", "//x"]


@pytest.fixture(params=["local", "s3"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageBackend]:
    if request.param == "local":
        yield open_backend(tmp_path / "store", writable=True)
    else:
        request.getfixturevalue("s3")
        yield open_backend(f"s3://features/{tmp_path.name}", writable=True)


def test_put_replaces_the_whole(backend: StorageBackend) -> None:
    backend.put("a/b.bin", b"long old content")
    backend.put("a/b.bin", b"new")
    assert backend.read("a/b.bin") == b"new"
    assert backend.size("a/b.bin") == 3
    assert backend.exists("a/b.bin")
    assert not backend.exists("a")


def test_buffers_of_any_kind_are_written(backend: StorageBackend) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    for data in (memoryview(array), memoryview(array.tobytes()), bytearray(array.tobytes())):
        backend.put("x", data)
        assert backend.read("x") == array.tobytes()
    backend.put("empty", b"")
    assert backend.read("empty") == b""


def test_create_is_exclusive(backend: StorageBackend) -> None:
    backend.create("n/1", b"first")
    with pytest.raises(AlreadyExistsError, match="another writer was first"):
        backend.create("n/1", b"second")
    assert backend.read("n/1") == b"first"


def test_of_many_racing_creates_one_wins(backend: StorageBackend) -> None:
    won: list[bytes] = []
    lost: list[PipelineError] = []
    start = threading.Barrier(8)

    def contend(data: bytes) -> None:
        start.wait()
        try:
            backend.create("race/commit", data)
            won.append(data)
        except AlreadyExistsError as err:
            lost.append(err)

    threads = [threading.Thread(target=contend, args=(bytes([n]) * 1000,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == 7
    assert backend.read("race/commit") == won[0]


def test_ranges(backend: StorageBackend) -> None:
    backend.put("r", bytes(range(100)))
    assert backend.read_range("r", 10, 5) == bytes(range(10, 15))
    assert backend.read_range("r", -8, 8) == bytes(range(92, 100))
    assert backend.read_range("r", 90, 50) == bytes(range(90, 100))
    assert backend.read_range("r", 200, 5) == b""


def test_what_is_missing_is_not_found(backend: StorageBackend) -> None:
    for ask in (backend.read, backend.size, lambda key: backend.read_range(key, 0, 1)):
        with pytest.raises(NotFoundError, match="no/such"):
            ask("no/such")
    assert not backend.exists("no/such")
    backend.delete("no/such")
    assert backend.list("no") == []
    assert backend.folders("no") == []


def test_listing_is_sorted_and_stays_in_its_folder(backend: StorageBackend) -> None:
    for key in ("b/2", "b/10", "b/c/d", "bc/1", "a"):
        backend.put(key, key.encode())
    assert backend.list("b") == [("b/10", 4), ("b/2", 3), ("b/c/d", 5)]
    assert backend.list("b/") == backend.list("b")
    assert backend.list("b", recursive=False) == [("b/10", 4), ("b/2", 3)]
    assert [key for key, _ in backend.list()] == ["a", "b/10", "b/2", "b/c/d", "bc/1"]
    assert backend.folders() == ["b", "bc"]
    assert backend.folders("b") == ["c"]
    backend.delete("b/2")
    assert [key for key, _ in backend.list("b")] == ["b/10", "b/c/d"]


@pytest.mark.parametrize("key", UNSAFE_KEYS)
def test_keys_that_leave_the_store_are_refused(backend: StorageBackend, key: str) -> None:
    for use in (
        backend.read,
        backend.size,
        backend.exists,
        backend.delete,
        backend.local_path,
        lambda k: backend.put(k, b"x"),
        lambda k: backend.create(k, b"x"),
        lambda k: backend.read_range(k, 0, 1),
    ):
        with pytest.raises(UnsafeNameError):
            use(key)


@given(st.text(max_size=20))
def test_a_key_that_passes_stays_inside(key: str) -> None:
    try:
        check_key(key)
    except UnsafeNameError:
        return
    assert os.path.normpath(os.path.join("/root/store", key)) == os.path.join("/root/store", key)


def test_zarr_reads_and_writes_the_same_keys(backend: StorageBackend) -> None:
    values = np.random.default_rng(0).standard_normal((8, 3, 4)).astype(np.float16)
    array = zarr.create_array(
        backend.zarr_store(read_only=False), name="d/v", shape=(8, 3, 4), chunks=(2, 3, 4), shards=(4, 3, 4), dtype="f2"
    )
    array[:] = values
    assert backend.exists("d/v/c/1/0/0")
    assert "d/v/zarr.json" in [key for key, _ in backend.list("d")]
    again = zarr.open_array(open_backend(backend.url).zarr_store(), path="d/v", mode="r")
    np.testing.assert_array_equal(again[:], values)
    np.testing.assert_array_equal(again.oindex[[7, 1]], values[[7, 1]])
    with pytest.raises(ValueError, match="read-only"):
        again[:] = 0
    assert backend.leftovers() == []


def test_a_backend_travels_to_a_spawned_worker(backend: StorageBackend) -> None:
    backend.put("k", b"v")
    assert pickle.loads(pickle.dumps(backend)).read("k") == b"v"
    assert open_backend(backend) is backend


def test_addresses() -> None:
    for bad in (
        "",
        "http://",
        "http://x",
        "ftp://x",
        "s3://",
        "s3:///path",
        "s3://b/../x",
        "s3://k:secret@b/x",
        "s3://b/x?y=1",
    ):
        with pytest.raises(InvalidInputError) as caught:
            open_backend(bad)
        assert "secret" not in str(caught.value)
    assert open_backend("gs://bucket/a/b/").url == "gs://bucket/a/b"
    assert open_backend("abfss://container@account.dfs.core.windows.net/x").url.endswith("/x")
    assert open_backend("file:///tmp/a%20b").url == "/tmp/a b"
    assert open_backend("relative").url == str(Path("relative").resolve())


# ---- a local folder ----


def test_symbolic_links_out_of_the_store_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s")
    store = tmp_path / "store"
    store.mkdir()
    (store / "folder").symlink_to(outside)
    (store / "file").symlink_to(outside / "secret")
    (store / "loop").symlink_to(store / "loop")
    backend = LocalBackend(store)
    for key in ("folder/secret", "folder/new", "file"):
        for use in (backend.read, backend.exists, backend.delete, lambda k: backend.put(k, b"x")):
            with pytest.raises(UnsafeNameError, match="symbolic link"):
                use(key)
        with pytest.raises(UnsafeNameError):
            backend.create(key, b"x")
    with pytest.raises(UnsafeNameError):
        backend.list("folder")
    with pytest.raises(PipelineError):
        backend.read("loop")
    assert sorted(p.name for p in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "s"


def test_links_inside_the_store_and_a_linked_root_work(tmp_path: Path) -> None:
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "real" / "b").symlink_to("a")
    (tmp_path / "store").symlink_to("real")
    backend = LocalBackend(tmp_path / "store")
    backend.put("b/x", b"1")
    assert backend.read("a/x") == b"1"


def test_temporary_files_are_no_keys(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    backend.put("a/x", b"1")
    (tmp_path / "a" / "x.123.partial").write_bytes(b"torn")
    assert backend.list() == [("a/x", 1)]
    assert backend.leftovers() == [("a/x.123.partial", 4)]


def test_no_permission_is_a_matter_of_setup(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        (tmp_path / "f").write_bytes(b"")
        with pytest.raises((NotFoundError, StorageError)):
            LocalBackend(tmp_path).put("f/below-a-file", b"")
        return
    tmp_path.chmod(0o500)
    with pytest.raises(SetupError, match="permissions"):
        LocalBackend(tmp_path).put("x", b"")


@pytest.mark.parametrize("verb", ["put", "create"])
@pytest.mark.parametrize("action", [a for a in ACTIONS if a != "kill"])
def test_any_failing_step_leaves_the_old_bytes_or_the_new(tmp_path: Path, verb: str, action: str) -> None:
    def work(folder: Path, plan: FaultPlan) -> None:
        getattr(FaultyLocalBackend(folder, plan), verb)("a/b/key", b"new bytes")

    counter = FaultPlan()
    work(tmp_path / "count", counter)
    assert counter.count >= 5
    for n in range(counter.count):
        folder = tmp_path / str(n)
        honest = LocalBackend(folder)
        if verb == "put":
            honest.put("a/b/key", b"old")
        plan = FaultPlan(at=n, action=action)
        try:
            work(folder, plan)
            failed = False
        except StorageError:
            failed = True
        found = honest.read("a/b/key") if honest.exists("a/b/key") else None
        before = b"old" if verb == "put" else None
        assert found in (before, b"new bytes"), plan.log
        if not failed:
            assert found == b"new bytes", plan.log
        honest.put("a/b/key", b"again")
        assert honest.read("a/b/key") == b"again"


_KILLED = """
import sys
from tests.support.faults import FaultPlan, FaultyLocalBackend
FaultyLocalBackend(sys.argv[1], FaultPlan(at=int(sys.argv[2]), action="kill")).put("a/key", b"new bytes")
"""


def test_a_killed_put_leaves_the_old_bytes_or_the_new(tmp_path: Path) -> None:
    honest = LocalBackend(tmp_path)
    honest.put("a/key", b"old")
    root = Path(__file__).parents[2]
    seen = set()
    for n in range(20):
        done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path), str(n)], cwd=root, check=False)
        seen.add(honest.read("a/key"))
        if done.returncode == 0:
            break
        assert done.returncode == -9
    assert done.returncode == 0
    assert seen <= {b"old", b"new bytes"}
    assert honest.list() == [("a/key", 9)]
    assert honest.leftovers(), "the torn temporary files are there to be swept"


@pytest.mark.parametrize("verb", ["put", "create"])
@pytest.mark.parametrize("step", ["write", "replace", "link"])
def test_an_interrupt_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, step: str) -> None:
    backend = LocalBackend(tmp_path)
    done = getattr(backend.disk, step)

    def interrupted(*arguments: object) -> None:
        done(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(backend.disk, step, interrupted)
    used = step in ("write", "replace" if verb == "put" else "link")
    with pytest.raises(KeyboardInterrupt) if used else nullcontext():
        getattr(backend, verb)("folder/name", b"bytes")
    assert not list(tmp_path.rglob("*.partial"))
