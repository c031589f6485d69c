"""Results stay: what is replaced keeps its number, until it is pruned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import FeatureStore
from pipeline.errors import InvalidInputError, NotFoundError, UnsafeNameError
from pipeline.store.artifacts import artifact_versions, drop_version
from pipeline.verify.verify_store import verify_store
from tests.support.stores import make_store

LARGE = b"x" * 5000


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    """A store whose model `scale` has three versions; all of them share one file."""
    made = make_store(tmp_path / "s", 4)
    for n in range(1, 4):
        made.dataset("toy").save_artifact(
            "models", "scale", {"weights.bin": f"w{n}".encode() * 500, "same.bin": LARGE}, {"epochs": n}
        )
    return made


def test_a_name_is_the_newest_and_older_ones_are_addressed(store: FeatureStore) -> None:
    ds = store.dataset("toy")
    assert ds.artifacts("models") == ["scale"]
    newest = ds.artifact("models", "scale")
    assert (newest.version, newest.label, newest.meta["epochs"]) == (3, "models/scale@3", 3)
    versions = artifact_versions(ds.backend, "toy", "models", "scale")
    assert [(one.version, one.meta["epochs"], one.read("weights.bin")[:2]) for one in versions] == [
        (1, 1, b"w1"), (2, 2, b"w2"), (3, 3, b"w3"),
    ]  # fmt: skip
    first = versions[0]
    for name in ("scale@1", f"scale@{first.content_id}", f"scale@{first.content_id[:8]}"):
        assert ds.artifact("models", name).read("weights.bin") == first.read("weights.bin")
    with pytest.raises(NotFoundError, match=r"a version of models/scale out of 1 \(.*\), 2 .*found '7'"):
        ds.artifact("models", "scale@7")
    with pytest.raises(NotFoundError, match="found: scale"):
        ds.artifact("models", "other@1")
    with pytest.raises(UnsafeNameError):
        ds.artifact("models", "../x@1")


def test_a_file_that_versions_share_is_stored_once(store: FeatureStore) -> None:
    backend = store.dataset("toy").backend
    assert sum(size for _, size in backend.list("toy/models/scale")) < 2 * len(LARGE) + 4000


def test_pruning_frees_what_no_other_version_has(store: FeatureStore) -> None:
    ds = store.dataset("toy")
    old = ds.artifact("models", "scale@2")
    assert 1000 <= drop_version(ds.backend, old) < len(LARGE)
    assert [one.version for one in artifact_versions(ds.backend, "toy", "models", "scale")] == [1, 3]
    assert ds.artifact("models", "scale@1").read("same.bin") == LARGE
    with pytest.raises(InvalidInputError, match="the name stands for"):
        drop_version(ds.backend, ds.artifact("models", "scale"))
    ds.save_artifact("models", "scale", {"weights.bin": b"w4"}, {"epochs": 4})
    assert [one.version for one in artifact_versions(ds.backend, "toy", "models", "scale")] == [1, 3, 4]
    assert verify_store(store).problems == ()


def test_a_store_of_before_has_version_one(store: FeatureStore, tmp_path: Path) -> None:
    import json
    import shutil

    from pipeline.fingerprint import canonical_json
    from pipeline.storage.shardfile import crc32c

    folder = Path(shutil.copytree(tmp_path / "s", tmp_path / "old")) / "toy/models/scale"
    body = json.loads((folder / "meta-1.json").read_text())
    for older in folder.glob("meta-?.json"):
        older.unlink()
    del body["version"], body["seal_crc32c"]  # as it was written before there were numbers
    body["seal_crc32c"] = crc32c(canonical_json(body).encode())
    (folder / "meta.json").write_text(json.dumps(body))
    shutil.rmtree(tmp_path / "old/toy/_copies/models")
    ds = FeatureStore.open(tmp_path / "old", mode="a").dataset("toy")
    assert ds.artifact("models", "scale").version == 1
    ds.save_artifact("models", "scale", {"weights.bin": b"new"}, {})
    assert ds.artifact("models", "scale@1").read("weights.bin")[:2] == b"w1"
    assert ds.artifact("models", "scale").version == 2


def test_a_damaged_older_version_is_found_and_dropped_alone(store: FeatureStore, tmp_path: Path) -> None:
    ds = store.dataset("toy")
    ds.artifact("models", "scale@1").local_path("weights.bin").write_bytes(b"other")
    report = verify_store(store)
    assert [(p.kind, p.where) for p in report.problems] == [("damaged artifact", "toy/models/scale@1")]
    verify_store(FeatureStore.open(tmp_path / "s", mode="a"), repair=True)
    assert verify_store(store).problems == ()
    assert [one.version for one in artifact_versions(ds.backend, "toy", "models", "scale")] == [2, 3]
