"""The whole life of a store in an object store, against a real S3 API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from zarr.storage import ObjectStore

from pipeline import FeatureStore
from pipeline.errors import (
    AlreadyExistsError,
    ConflictError,
    CorruptDataError,
    CredentialsError,
    NotFoundError,
    PipelineError,
    StorageError,
    StoreNotFoundError,
    UnsafeStorageError,
)
from pipeline.storage.opening import open_backend
from pipeline.verify.verify_store import verify_store
from tests.support.faults import FaultPlan, FaultyBackend
from tests.support.s3 import S3Server, stub_server
from tests.support.toy_stores import (
    CROPS,
    DIM,
    FEATURES,
    NUM_CROPS,
    check_features,
    extract,
    make_store,
    policy,
    valid_of,
    values_of,
    videos,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def url(s3: S3Server, tmp_path: Path) -> str:
    return f"s3://features/{tmp_path.name}/store"


def test_create_write_read_query(url: str) -> None:
    store = make_store(url)
    store = FeatureStore.open(url)
    assert (store.url, store.datasets()) == (url, ["toy"])
    dataset = store.dataset("toy")
    check_features(dataset)
    counts = store.sql("SELECT label, count(*) AS n FROM toy.videos GROUP BY label ORDER BY label").to_pylist()
    assert [row["n"] for row in counts] == [3, 4, 3]
    assert store.sql("SELECT count(*) AS n FROM toy.geometry").to_pylist() == [{"n": 40}]
    assert store.sql("SELECT DISTINCT status FROM toy.ledger ORDER BY 1")["status"].to_pylist() == ["ok", "partial"]
    selection = dataset.select("splits['1'] = 'train' AND label = 'run'")
    assert selection.rows.tolist() == [0, 6]
    for shuffle in (False, True):
        rows = [b.rows.copy() for b in dataset.select().batches(CROPS, FEATURES, batch_size=3, shuffle=shuffle)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(10))


def test_the_same_bytes_as_on_disk(url: str, tmp_path: Path) -> None:
    """One layout: an object store holds what a folder holds, but for the stamps of time."""
    make_store(url)
    make_store(tmp_path / "local")
    remote, local = (open_backend(address) for address in (url, tmp_path / "local"))
    arrays = [key for key, _ in local.list() if "/c." in key]
    assert len(arrays) == 9
    assert [key for key, _ in remote.list() if "/c." in key] == arrays
    for key in arrays:
        assert remote.read(key) == local.read(key), key


def test_plain_zarr_and_pyarrow_open_it(url: str, s3: S3Server) -> None:
    from obstore.store import S3Store

    make_store(url)
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = S3Store(bucket, prefix=prefix, client_options={"allow_http": True})
    array = zarr.open_array(ObjectStore(client, read_only=True), path=f"toy/crops/{CROPS}/features/{FEATURES}/values")
    rows = np.arange(10)
    np.testing.assert_array_equal(array[:], np.where(valid_of(rows)[..., None], values_of(rows), 0))
    parquet = bytes(client.get("toy/catalog/videos-0.parquet").bytes())
    table = pq.read_table(pa.BufferReader(parquet))
    assert table["video_id"].to_pylist()[3] == "clips/0003.mp4"


def test_appends_and_pinned_readers(url: str) -> None:
    make_store(url, num_videos=6)
    before = FeatureStore.open(url).dataset("toy")
    snapshot = before.snapshot()
    store = FeatureStore.open(url, mode="a")
    store.dataset("toy").append_videos(videos(4, 11))
    assert extract(store.dataset("toy")) == 2
    after = FeatureStore.open(url).dataset("toy")
    check_features(after)
    check_features(before)
    assert (before.num_rows, after.num_rows) == (6, 11)
    assert before.snapshot() == snapshot != after.snapshot()
    assert extract(store.dataset("toy")) == 0


def test_artifacts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALE_CACHE", str(tmp_path / "cache"))
    store = make_store(url, num_videos=2)
    dataset = store.dataset("toy")
    dataset.save_artifact("models", "scale", {"weights.bin": b"1" * 1000}, {"snapshot": dataset.snapshot()})
    dataset.save_artifact("models", "scale", {"weights.bin": b"2" * 1000}, {"snapshot": dataset.snapshot()})
    found = FeatureStore.open(url).dataset("toy").artifact("models", "scale")
    assert found.read("weights.bin") == b"2" * 1000
    assert found.local_path("weights.bin").read_bytes() == b"2" * 1000
    assert found.local_path("weights.bin").is_relative_to(tmp_path / "cache")


def test_addresses_that_lead_nowhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StoreNotFoundError, match=r"no zarr\.json"):
        FeatureStore.open(url)
    with pytest.raises(StoreNotFoundError, match="bucket nowhere"):
        FeatureStore.open("s3://nowhere/store")
    with pytest.raises(StoreNotFoundError, match="bucket nowhere"):
        FeatureStore.open_or_create("s3://nowhere/store")
    make_store(url, num_videos=1)
    with pytest.raises(AlreadyExistsError):
        FeatureStore.create(url)
    with pytest.raises(ConflictError, match="mode"):
        FeatureStore.open(url).create_dataset("x")
    with stub_server("refuses") as (address, _):
        address.use(monkeypatch)
        with pytest.raises(CredentialsError):
            FeatureStore.open(url)


def test_a_service_that_loses_commits_is_not_written_to(monkeypatch: pytest.MonkeyPatch) -> None:
    with stub_server("ignores-condition") as (address, server):
        address.use(monkeypatch)
        monkeypatch.setattr("pipeline.storage.backend_object._probed", set())
        with pytest.raises(UnsafeStorageError):
            FeatureStore.create("s3://b/store")
        assert server.objects == {}


def _life(backend: FaultyBackend) -> None:
    store = FeatureStore.open_or_create(backend)  # type: ignore[arg-type]
    store.create_dataset("toy", shard_rows=4)
    dataset = store.dataset("toy")
    dataset.append_videos(videos(0, 6))
    dataset.define_crop_set(CROPS, policy())
    extract(dataset)


@pytest.mark.parametrize(
    ("action", "first", "step"),
    [
        ("fail", 1, 7),  # a sample of what the slow ones go through whole
        pytest.param("fail", 0, 1, marks=pytest.mark.slow),
        pytest.param("late", 0, 1, marks=pytest.mark.slow),
    ],
)
def test_any_failing_put_loses_nothing(url: str, action: str, first: int, step: int) -> None:
    counter = FaultPlan()
    _life(FaultyBackend(open_backend(f"{url}/count"), counter))
    assert counter.count > 20
    for n in range(first, counter.count, step):
        inner = open_backend(f"{url}/{n}")
        plan = FaultPlan(at=n, action=action)
        with suppress(PipelineError):
            _life(FaultyBackend(inner, plan))
        if inner.exists("toy/zarr.json"):
            with suppress(NotFoundError):  # the crop set may not be there yet
                dataset = FeatureStore.open(inner).dataset("toy")
                block = dataset.select().features(CROPS, FEATURES)
                expected = np.where(valid_of(block.rows)[..., None], values_of(block.rows), 0)
                there = block.valid.any(axis=1)
                np.testing.assert_array_equal(block.values[there], expected[there])
                assert not block.values[~there].any()
        _life(FaultyBackend(inner, FaultPlan()))
        dataset = FeatureStore.open(inner).dataset("toy")
        assert dataset.num_rows == 6, plan.log
        check_features(dataset)


_WORKER = """
import sys
from tests.support.faults import FaultPlan, FaultyBackend
from tests.support.toy_stores import extract
from pipeline import FeatureStore
from pipeline.storage.opening import open_backend
at = int(sys.argv[2])
plan = FaultPlan(at=None if at < 0 else at, action="kill", kinds=("put", "create"))
backend = FaultyBackend(open_backend(sys.argv[1]), plan)
print(extract(FeatureStore.open(backend, mode="a").dataset("toy")))
"""


def _spawn(url: str, at: int, s3: S3Server) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER, url, str(at)],
        cwd=ROOT,
        env={**os.environ, **s3.environment()},
        stdout=subprocess.PIPE,
        text=True,
    )


def _prepared(url: str, num_videos: int) -> None:
    store = FeatureStore.create(url)
    dataset = store.create_dataset("toy", shard_rows=4)
    dataset.append_videos(videos(0, num_videos))
    dataset.define_crop_set(CROPS, policy())


def test_a_killed_worker_is_taken_over(url: str, s3: S3Server) -> None:
    _prepared(url, 12)
    killed = _spawn(url, 14, s3)
    assert killed.wait() == -9
    killed.communicate()
    done = extract(FeatureStore.open(url, mode="a").dataset("toy"))
    assert 1 <= done <= 3
    check_features(FeatureStore.open(url).dataset("toy"))


@pytest.mark.slow
def test_a_worker_killed_at_any_put_is_taken_over(url: str, s3: S3Server) -> None:
    for at in range(100):
        _prepared(f"{url}/{at}", 6)
        worker = _spawn(f"{url}/{at}", at, s3)
        worker.communicate()
        extract(FeatureStore.open(f"{url}/{at}", mode="a").dataset("toy"))
        check_features(FeatureStore.open(f"{url}/{at}").dataset("toy"))
        if worker.returncode == 0:
            break
        assert worker.returncode == -9
    assert worker.returncode == 0
    assert at > 10


@pytest.mark.slow
def test_two_workers_share_the_work(url: str, s3: S3Server) -> None:
    _prepared(url, 40)
    workers = [_spawn(url, -1, s3) for _ in range(2)]
    done = [int(worker.communicate()[0]) for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    left = extract(FeatureStore.open(url, mode="a").dataset("toy"))
    assert sum(done) + left == 10
    dataset = FeatureStore.open(url).dataset("toy")
    check_features(dataset)
    assert set(dataset.status(CROPS, FEATURES)["generation"].to_pylist()) == {0}


def test_a_flipped_byte_is_detected(url: str) -> None:
    make_store(url)
    backend = open_backend(url)
    rng = np.random.default_rng(0)
    keys = [key for key, _ in backend.list() if "/c." in key or "/ledger/" in key or "/catalog/videos" in key]
    for _ in range(15):
        key = keys[rng.integers(len(keys))]
        good = backend.read(key)
        place = int(rng.integers(len(good)))
        backend.put(key, good[:place] + bytes([good[place] ^ (1 << int(rng.integers(8)))]) + good[place + 1 :])
        with suppress(CorruptDataError):  # found, or harmless: a copy of the catalogue, bytes that nobody reads
            check_features(FeatureStore.open(url).dataset("toy"))
        backend.put(key, good)
    check_features(FeatureStore.open(url).dataset("toy"))


def test_verify_repair_and_run_again(url: str) -> None:
    make_store(url)
    store = FeatureStore.open(url, mode="a")
    assert verify_store(store).is_clean
    backend = store.backend
    keys = [key for key, _ in backend.list("toy/crops") if "/values/c." in key or "/ledger/" in key]
    for key in keys[::2]:
        data = bytearray(backend.read(key))
        data[len(data) // 3] ^= 4
        backend.put(key, data)
    backend.delete(next(key for key in keys if "values/c.1" in key))
    assert not verify_store(store).is_clean
    assert verify_store(FeatureStore.open(url, mode="a"), repair=True).is_clean
    extract(FeatureStore.open(url, mode="a").dataset("toy"))
    check_features(FeatureStore.open(url).dataset("toy"))
    assert verify_store(FeatureStore.open(url)).is_clean


# ---- arrays that other programs wrote ----


def _rewrite(store: FeatureStore, name: str, **options: object) -> None:
    """Write an array of the store again with zarr, in another form: same values, same ledger."""
    base = f"toy/crops/{CROPS}"
    path = f"{base}/geometry" if name == "geometry" else f"{base}/features/{FEATURES}/{name}"
    old = zarr.open_array(store.backend.zarr_store(), path=path, mode="r")
    content, shape, dtype = old[:], old.shape, old.dtype
    for key, _ in store.backend.list(path):
        store.backend.delete(key)
    array = zarr.create_array(
        store.backend.zarr_store(read_only=False), name=path, shape=shape, dtype=dtype, overwrite=True, **options
    )
    array[:] = content


FORMS: dict[str, Callable[[tuple[int, ...]], dict[str, object]]] = {
    "zstd": lambda shape: {"chunks": (2, *shape), "shards": (4, *shape), "compressors": zarr.codecs.ZstdCodec()},
    "gzip, no shards": lambda shape: {"chunks": (3, *shape), "compressors": zarr.codecs.GzipCodec()},
    "big endian": lambda shape: {
        "chunks": (4, *shape), "compressors": None, "serializer": zarr.codecs.BytesCodec(endian="big"),
    },
    "cut along the crops": lambda shape: {"chunks": (4, 2, *shape[1:]), "compressors": None},
    "one shard": lambda shape: {"chunks": (5, *shape), "shards": (20, *shape), "compressors": None},
}  # fmt: skip


@pytest.mark.parametrize("place", ["local", "s3"])
@pytest.mark.parametrize("form", FORMS)
def test_foreign_forms_of_the_arrays_read_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, place: str, form: str
) -> None:
    address: str | Path = request.getfixturevalue("url") if place == "s3" else tmp_path / "store"
    store = make_store(address)
    for name, shape in (("values", (NUM_CROPS, DIM)), ("geometry", (NUM_CROPS, 9))):
        _rewrite(store, name, **FORMS[form](shape))
    dataset = FeatureStore.open(address).dataset("toy")
    check_features(dataset)
    rows = [7, 2, 9, 0]
    block = dataset.select(rows=rows).features(CROPS, FEATURES)
    expected = np.where(valid_of(block.rows)[..., None], values_of(block.rows), 0)
    np.testing.assert_array_equal(block.values, expected)
    for batch in dataset.select().batches(CROPS, FEATURES, batch_size=4, seed=1):
        wanted = np.where(valid_of(batch.rows)[..., None], values_of(batch.rows), 0)
        np.testing.assert_array_equal(batch.values, wanted)
    assert store.sql("SELECT count(*) AS n FROM toy.geometry").to_pylist() == [{"n": 40}]


def test_a_damaged_foreign_array_is_not_believed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store")
    _rewrite(store, "values", chunks=(2, NUM_CROPS, DIM), compressors=None)
    path = tmp_path / "store" / "toy" / "crops" / CROPS / "features" / FEATURES / "values" / "c" / "1" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(data)
    dataset = FeatureStore.open(tmp_path / "store").dataset("toy")
    with pytest.raises((CorruptDataError, StorageError)):
        dataset.select(rows=[2, 3]).features(CROPS, FEATURES)
    dataset.select(rows=[0, 1, 8]).features(CROPS, FEATURES)
