"""verify names what is missing, impossible, misplaced or leads away; repair keeps what it replaces."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError
from pipeline.sets.arrays import group_json
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.schema import LEDGER_SCHEMA
from pipeline.storage.sealed import seal, unseal
from pipeline.verify.verify_store import verify_store
from tests.support.damage import NoSync, Pristine, read_everything, work


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    return Pristine.make(LocalBackend(tmp_path_factory.mktemp("pristine") / "s", NoSync()))


@pytest.fixture
def backend(tmp_path: Path, pristine: Pristine) -> LocalBackend:
    backend = LocalBackend(tmp_path / "s", NoSync())
    pristine.put(backend)
    return backend


METADATA = [
    "zarr.json", "toy/zarr.json", "toy/crops/zarr.json", "toy/crops/a/zarr.json", "toy/crops/a/features/zarr.json",
    "toy/crops/a/features/f/zarr.json", "toy/crops/a/features/f/values/zarr.json", "toy/crops/a/geometry/zarr.json",
    "toy/embeddings/zarr.json", "toy/embeddings/e/zarr.json", "toy/models/m/meta.json", "toy/reports/r/meta.json",
]  # fmt: skip


@pytest.mark.parametrize("key", METADATA)
def test_deleted_metadata_is_named_and_put_back(backend: LocalBackend, pristine: Pristine, key: str) -> None:
    backend.delete(key)
    assert key.removesuffix("/zarr.json") in verify_store(FeatureStore.open(backend)).problems[0].where
    assert not read_everything(backend, with_sql=True).faults
    assert verify_store(FeatureStore.open(backend, "a"), repair=True).is_clean
    assert backend.read(key) == pristine.files[key]
    assert verify_store(FeatureStore.open(backend)).problems == ()


def forged(kind: Callable[[dict[str, object]], None], key: str) -> Callable[[LocalBackend], str]:
    def forge(backend: LocalBackend) -> str:
        attributes = json.loads(backend.read(key))["attributes"]
        attributes.pop("seal_crc32c")
        kind(attributes)
        backend.put(key, group_json(attributes))
        return key

    return forge


def long_shape(backend: LocalBackend) -> str:
    key = "toy/crops/a/features/f/values/zarr.json"
    content = json.loads(backend.read(key))
    content["shape"][0] = 10**15
    backend.put(key, json.dumps(content).encode())
    return key


def unknown_status(backend: LocalBackend) -> str:
    key = "toy/crops/a/ledger/f/0-0.parquet"
    key = max(k for k, _ in backend.list("toy/crops/a/ledger/f") if "/0-" in k)
    table, metadata = unseal(backend.read(key), LEDGER_SCHEMA, what=key)
    rows = table.to_pydict() | {"status": ["wonderful"] * len(table)}
    metadata.pop("scale.seal")
    backend.put(key, seal(type(table).from_pydict(rows, schema=LEDGER_SCHEMA), metadata))
    return key


FORGERIES: dict[str, Callable[[LocalBackend], str]] = {
    "a shape of 10^15 rows": long_shape,
    "no rows a shard": forged(lambda a: a.update(shard_rows=0), "toy/zarr.json"),
    "other rows a shard": forged(lambda a: a.update(shard_rows=7), "toy/crops/a/features/f/zarr.json"),
    "a fingerprint that is not its id's": forged(lambda a: a.update(fingerprint={}), "toy/embeddings/e/zarr.json"),
    "an unknown status": unknown_status,
}


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_sealed_and_impossible_is_named_too(backend: LocalBackend, name: str) -> None:
    key = FORGERIES[name](backend)
    problems = verify_store(FeatureStore.open(backend)).problems
    assert any(problem.where in (key, key.removesuffix("/zarr.json")) for problem in problems), problems
    assert verify_store(FeatureStore.open(backend, "a"), repair=True).is_clean
    work(FeatureStore.open(backend, "a"))
    assert read_everything(backend).is_whole
    assert verify_store(FeatureStore.open(backend)).problems == ()


def test_repair_keeps_the_good_copy_and_what_it_replaces(backend: LocalBackend, pristine: Pristine) -> None:
    first, second = (f"toy/catalog/videos-{n}.parquet" for n in (0, 1))
    backend.put(second, pristine.files[first])
    report = verify_store(FeatureStore.open(backend, "a"), repair=True)
    (problem,) = report.problems
    assert backend.read(second) == pristine.files[second]
    assert backend.read("toy/catalog/_copies/videos-1.parquet") == pristine.files[second]
    kept = problem.repaired.rsplit(" ", 1)[-1]
    assert kept.startswith("toy/_replaced/")
    assert backend.read(kept) == pristine.files[first]


def test_a_link_out_of_the_store_is_one_finding_among_others(backend: LocalBackend, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    shard = next(p for p in sorted(backend.root.rglob("c.0.0.0")) if "features/f/values" in str(p))
    shard.unlink()
    shard.symlink_to(outside)
    (backend.root / "away").symlink_to(tmp_path)
    backend.delete("toy/crops/a/features/g/zarr.json")
    kinds = {problem.kind for problem in verify_store(FeatureStore.open(backend)).problems}
    assert {"link", "damaged metadata"} <= kinds
    assert verify_store(FeatureStore.open(backend, "a"), repair=True).is_clean
    assert outside.read_bytes() == b"mine"
    work(FeatureStore.open(backend, "a"))
    assert read_everything(backend).is_whole


def test_a_damaged_group_whose_copy_is_gone_is_set_aside_and_made_again(backend: LocalBackend) -> None:
    key = "toy/crops/a/features/f/zarr.json"
    backend.put(key, b"{")
    backend.delete("toy/_copies/crops/a/features/f/zarr.json.copy")
    with pytest.raises(CorruptDataError):
        FeatureStore.open(backend).dataset("toy").feature_info("a", "f")
    assert verify_store(FeatureStore.open(backend, "a"), repair=True).is_clean
    work(FeatureStore.open(backend, "a"))
    assert read_everything(backend).is_whole
    assert verify_store(FeatureStore.open(backend)).problems == ()


def test_old_litter_goes_with_the_next_writer_and_young_litter_stays(backend: LocalBackend) -> None:
    places = ("", "toy/", "toy/catalog/", "toy/crops/a/features/f/values/", "toy/crops/a/ledger/f/")
    old = [backend.root / f"{place}x.1.partial" for place in places]
    young = [backend.root / f"{place}x.2.partial" for place in places]
    for path in old + young:
        path.write_bytes(b"half")
    for path in old:
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    work(FeatureStore.open(backend, "a"))
    assert not any(path.exists() for path in old)
    assert all(path.exists() for path in young)
    assert {p.kind for p in verify_store(FeatureStore.open(backend)).problems} == {"partial file"}
    assert verify_store(FeatureStore.open(backend, "a"), repair=True).is_clean
    assert not any(path.exists() for path in young)
