"""Stores and names that try to get out, or to exhaust the machine."""

from __future__ import annotations

import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import FeatureStore
from pipeline.errors import CorruptDataError, InvalidInputError, NotFoundError, PipelineError, UnsafeNameError
from pipeline.names import check_name
from tests.support.toy_stores import (
    CROPS,
    DIM,
    FEATURES,
    FINGERPRINT,
    NUM_CROPS,
    check_features,
    make_store,
    policy,
    videos,
)

BAD_NAMES = [
    "..", "../x", "../../etc", "/etc", "/", "", ".", ".hidden", "-flag", "a/b", "a\\b", "a\0b", "a\nb", "a b", "ä",
    "x" * 101, "zarr.json", "catalog", "ledger", "~", "$HOME", "c:", "a;b", "a'b", 'a"b', "*",
]  # fmt: skip


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_refused_everywhere(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path / "in" / "store", num_videos=2)
    dataset = store.dataset("toy")
    before = tree(tmp_path)
    attempts: list[Callable[[], Any]] = [
        lambda: check_name(name),
        lambda: store.create_dataset(name),
        lambda: store.dataset(name),
        lambda: dataset.define_crop_set(name, policy()),
        lambda: dataset.crop_policy(name),
        lambda: dataset.writer(CROPS, name, fingerprint=FINGERPRINT, dim=DIM),
        lambda: dataset.writer(name, "x", fingerprint=FINGERPRINT, dim=DIM),
        lambda: dataset.embedding_writer(name, fingerprint=FINGERPRINT, dim=DIM),
        lambda: dataset.save_artifact("models", name, {"a": b""}, {}),
        lambda: dataset.save_artifact(name, "x", {"a": b""}, {}),
        lambda: dataset.artifact("models", name),
    ]
    for attempt in attempts:
        with pytest.raises((InvalidInputError, NotFoundError)):
            attempt()
    with pytest.raises(NotFoundError):
        dataset.select().features(CROPS, name)
    with pytest.raises(NotFoundError):
        dataset.select().features(name, FEATURES)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..", "", "a\0b"])
def test_file_names_of_artifacts(tmp_path: Path, name: str) -> None:
    dataset = make_store(tmp_path / "in" / "store", num_videos=2).dataset("toy")
    before = tree(tmp_path)
    with pytest.raises(PipelineError):
        dataset.save_artifact("models", "m", {name: b"x"}, {})
    assert tree(tmp_path) == before


def test_recipes_with_names_that_leave_the_folder() -> None:
    from pipeline.recipe import DatasetSpec

    with pytest.raises((ValidationError, PipelineError)):
        DatasetSpec.model_validate({"name": "../out", "videos": "*.mp4"})


def test_symbolic_links_lead_nowhere(tmp_path: Path) -> None:
    root = tmp_path / "store"
    store = make_store(root)
    outside = tmp_path / "outside"
    outside.mkdir()
    values = root / "toy" / "crops" / CROPS / "features" / FEATURES / "values"
    shard = next(p for p in sorted(values.iterdir()) if p.name.startswith("c."))
    shard.rename(outside / "shard")
    shard.symlink_to(outside / "shard")
    with pytest.raises(UnsafeNameError, match="symbolic link"):
        FeatureStore.open(root).dataset("toy").select().features(CROPS, FEATURES)
    shard.unlink()
    (outside / "shard").rename(shard)
    (root / "evil").symlink_to(outside)
    (outside / "zarr.json").write_bytes((root / "toy" / "zarr.json").read_bytes())
    for attempt in (
        lambda: store.dataset("evil"),
        lambda: store.create_dataset("evil"),
        lambda: FeatureStore.open(root, mode="a").dataset("evil").append_videos(videos(0, 1)),
    ):
        with pytest.raises(UnsafeNameError, match="symbolic link"):
            attempt()
    assert sorted(p.name for p in outside.iterdir()) == ["zarr.json"]


def test_a_catalogue_with_sql_and_paths_in_it(tmp_path: Path) -> None:
    labels = ["'; DROP TABLE videos; --", '" OR 1=1 --', "../../etc/passwd", "a\0b", "💥", "%s %n", "{{7*7}}", "run"]
    store = FeatureStore.create(tmp_path / "in" / "store")
    dataset = store.create_dataset("toy")
    dataset.append_videos(videos(0, len(labels), labels=labels))
    store.create_dataset("select")
    found = FeatureStore.open(store.url)
    assert found.dataset("toy").videos["label"].to_pylist() == labels
    assert found.sql("SELECT label FROM toy.videos ORDER BY row")["label"].to_pylist() == labels
    for row, label in enumerate(labels):
        if "\0" not in label:
            quoted = label.replace("'", "''")
            assert found.dataset("toy").select(f"label = '{quoted}'").rows.tolist() == [row]
    assert found.sql("SELECT count(*) AS n FROM toy.videos").to_pylist() == [{"n": len(labels)}]
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["store"]


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        node: Any = content
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        node[int(last) if isinstance(node, list) else last] = value

    return change


def _compressed(shape: list[int], chunk: list[int]) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        content["shape"] = shape
        content["chunk_grid"]["configuration"]["chunk_shape"] = chunk
        content["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]

    return change


HUGE = 1 << 62
FORGERIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "rows beyond counting": _set("shape", [HUGE, NUM_CROPS, DIM]),
    "rows of petabytes": _set("shape", [10, HUGE, DIM]),
    "crops": _set("shape", [10, NUM_CROPS + 1, DIM]),
    "channels": _set("shape", [10, NUM_CROPS, 1 << 40]),
    "shards of petabytes": _set("chunk_grid/configuration/chunk_shape", [HUGE, NUM_CROPS, DIM]),
    "shards without rows": _set("chunk_grid/configuration/chunk_shape", [0, NUM_CROPS, DIM]),
    "negative": _set("shape", [-1, NUM_CROPS, DIM]),
    "no numbers": _set("shape", ["a", "b", "c"]),
    "fewer dimensions": _set("shape", [10]),
    "no shape": _set("shape", []),
    "other dtype": _set("data_type", "float32"),
    "strings": _set("data_type", "string"),
    "structured dtype": _set("data_type", {"name": "structured", "configuration": {}}),
    "inner chunks of petabytes": _set("codecs/0/configuration/chunk_shape", [HUGE, NUM_CROPS, DIM]),
    "unknown codec": _set("codecs/0/name", "evil"),
    "no codecs": _set("codecs", []),
    "a group": _set("node_type", "group"),
    "version 2": _set("zarr_format", 2),
    "compressed bomb": _compressed([HUGE, NUM_CROPS, DIM], [1 << 40, NUM_CROPS, DIM]),
    "compressed wide bomb": _compressed([10, 1 << 30, 1 << 20], [1, 1 << 30, 1 << 20]),
    "nested deep": _set("attributes", json.loads("[" * 400 + "]" * 400)),
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("array", ["values", "valid", "geometry"])
def test_forged_metadata_is_refused_cheaply(tmp_path: Path, array: str, name: str) -> None:
    make_store(tmp_path / "store")
    base = tmp_path / "store" / "toy" / "crops" / CROPS
    path = (base if array == "geometry" else base / "features" / FEATURES) / array / "zarr.json"
    content = json.loads(path.read_text())
    FORGERIES[name](content)
    path.write_text(json.dumps(content))
    started = time.perf_counter()
    tracemalloc.start()
    try:
        store = FeatureStore.open(tmp_path / "store")
        with suppress(CorruptDataError):  # or what is forged does not matter for reading: then the values are right
            check_features(store.dataset("toy"))
        with suppress(CorruptDataError):
            assert store.sql("SELECT count(*) AS n FROM toy.geometry").to_pylist() == [{"n": 40}]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{}", '"x"', "{" * 100_000, "[" * 100_000, "\xff", '{"attributes": 1}', '{"zarr_format": 3}'],
)
@pytest.mark.parametrize("where", ["zarr.json", "toy/zarr.json", f"toy/crops/{CROPS}/features/{FEATURES}/zarr.json"])
def test_group_metadata_that_is_none(tmp_path: Path, where: str, text: str) -> None:
    make_store(tmp_path / "store", num_videos=2)
    (tmp_path / "store" / where).write_text(text, encoding="latin-1")
    check_features(FeatureStore.open(tmp_path / "store").dataset("toy"))  # the copy serves
    for copies in ("_copies", "toy/_copies"):
        shutil.rmtree(tmp_path / "store" / copies)
    with pytest.raises(CorruptDataError):
        FeatureStore.open(tmp_path / "store").dataset("toy").select().features(CROPS, FEATURES)
