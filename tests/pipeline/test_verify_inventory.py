"""verify names what is missing, impossible, misplaced or leads away; repair keeps what it replaces."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError
from pipeline.sets.arrays import group_json
from pipeline.sets.binding import video_keys
from pipeline.storage.backend_local import LocalBackend
from pipeline.storage.schema import LEDGER_SCHEMA
from pipeline.storage.sealed import seal, unseal
from pipeline.storage.spare import spare_key
from pipeline.store.artifacts import artifact_versions, drop_version
from pipeline.store.commit_index import CommitIndex, write_commit_index
from pipeline.store.compact import compact_store
from pipeline.store.id_index import Run, drop_index, write_index
from pipeline.store.runs import list_runs, run_keys, save_run
from pipeline.verify.verify_store import verify_store
from tests.support.damage import RUN, NoSync, Pristine, id_of, read_everything, videos, work


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


MODEL = "toy/models/v"


def both(backend: LocalBackend, key: str, data: bytes | None) -> None:
    """Put bytes under a key and its copy, or delete both."""
    for place in (key, spare_key(key)):
        backend.delete(place) if data is None else backend.put(place, data)


def older_put_back(backend: LocalBackend) -> str:
    both(backend, f"{MODEL}/meta.json", backend.read(f"{MODEL}/meta-1.json"))
    return f"{MODEL}/meta.json"


def older_gone(backend: LocalBackend) -> str:
    both(backend, f"{MODEL}/meta-1.json", None)
    return f"{MODEL}@1"


def pruned_put_back(backend: LocalBackend) -> str:
    raw = backend.read(f"{MODEL}/meta-1.json")
    dataset = FeatureStore.open(backend, "a").dataset("toy")
    drop_version(backend, dataset.artifact("models", "v@1"))
    both(backend, f"{MODEL}/meta-1.json", raw)
    return f"{MODEL}@1"


def versions_swapped(backend: LocalBackend) -> str:
    one, two = (backend.read(f"{MODEL}/meta-{n}.json") for n in (1, 2))
    backend.put(f"{MODEL}/meta-1.json", two)
    backend.put(f"{MODEL}/meta-2.json", one)
    return f"{MODEL}/meta-1.json"


def file_of_an_older_one(backend: LocalBackend) -> str:
    key = next(key for key, _ in backend.list(MODEL) if "old-" in key)
    backend.put(key, b"other")
    return f"{MODEL}@1"


def unlisted_file(backend: LocalBackend) -> str:
    backend.put(f"{MODEL}/lost-0123456789ab.bin", b"x")
    return f"{MODEL}/lost-0123456789ab.bin"


def run_changed(backend: LocalBackend) -> str:
    key = run_keys(backend, "toy")[0]
    backend.put(key, backend.read(key).replace(b"done", b"gone"))
    return key


def run_deleted(backend: LocalBackend) -> str:
    key = run_keys(backend, "toy")[0]
    backend.delete(key)
    return key


def run_renamed(backend: LocalBackend) -> str:
    key = run_keys(backend, "toy")[0]
    backend.put("toy/runs/20200101T000000-abcdef.json", backend.read(key))
    return "toy/runs/20200101T000000-abcdef.json"


def ids_of_others(backend: LocalBackend) -> str:
    drop_index(backend, "toy")
    write_index(backend, "toy", Run.of(video_keys(["x", "y", "z"]), 0), 0)
    return "toy/catalog/packs/ids-0.parquet"


def ids_cut(backend: LocalBackend) -> str:
    key = "toy/catalog/packs/ids-0.parquet"
    backend.put(key, backend.read(key)[:-50])
    return key


def commits_of_others(backend: LocalBackend) -> str:
    write_commit_index(backend, "toy", CommitIndex(np.array([3]), ["0" * 64]))
    return "toy/catalog/packs/commits-0.parquet"


BESIDE = [older_put_back, older_gone, pruned_put_back, versions_swapped, file_of_an_older_one, unlisted_file,
          run_changed, run_deleted, run_renamed, ids_of_others, ids_cut, commits_of_others]  # fmt: skip


@pytest.mark.parametrize("spoil", BESIDE)
def test_versions_records_and_the_index_are_in_the_inventory(
    tmp_path: Path, spoil: Callable[[LocalBackend], str]
) -> None:
    backend = LocalBackend(tmp_path / "s", NoSync())
    store = FeatureStore.create(backend)
    dataset = store.create_dataset("toy")
    dataset.append_videos(videos("toy", 4))
    for number, file in enumerate(("old.bin", "new.bin", "new.bin")):
        dataset.save_artifact("models", "v", {file: b"w" * 40, "note.txt": b"n"}, {"made": number})
    save_run(backend, "toy", RUN | {"seconds": 1.0})
    compact_store(store, min_ids=1)
    assert verify_store(store).problems == ()
    where = spoil(backend)
    assert where in [problem.where for problem in verify_store(store).problems]
    assert verify_store(store, repair=True).is_clean
    assert verify_store(FeatureStore.open(backend)).problems == ()
    assert len(list_runs(backend, "toy")) == 1
    assert dataset.artifact("models", "v").read("note.txt") == b"n"
    assert dataset.refresh().select(video_ids=[id_of("toy", 3)]).rows.tolist() == [0]
    saved = dataset.save_artifact("models", "v", {"again.bin": b"a"}, {"made": 9})
    assert verify_store(store).problems == ()
    assert saved.version == max(one.version for one in artifact_versions(backend, "toy", "models", "v"))
