"""Any change of a store's metadata is noticed as damage, or harmless: never a crash, never a fault of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from pipeline import FeatureStore
from pipeline.errors import ConflictError, FormatError, InvalidInputError, NotFoundError
from tests.support.stores import make_store

JUNK = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from(
    [[], {}, 10**15, -1, 1.5, "../x", "x" * 5000, [1] * 9, {"a": {"b": []}}, 10**400]
)  # fmt: skip
SAID = (FormatError, InvalidInputError, NotFoundError, ConflictError)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metadata") / "s"
    make_store(folder)
    return folder


def ask_everything(url: str) -> int:
    """Open a store and ask what it holds; return how many rows were read."""
    store = FeatureStore.open(url)
    rows = 0
    for name in store.datasets():
        dataset = store.dataset(name)
        rows += dataset.videos.num_rows
        for crops in dataset.crop_sets():
            for feature_set in dataset.feature_sets(crops):
                dataset.feature_info(crops, feature_set)
                rows += dataset.status(crops, feature_set).num_rows
        dataset.snapshot()
    return rows


@hypothesis.settings(max_examples=60, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(data=st.data())
def test_any_value_in_a_group_file_is_damage_or_harmless(whole: Path, tmp_path_factory, data: Any) -> None:
    copy = tmp_path_factory.mktemp("copy") / "s"
    shutil.copytree(whole, copy)
    files = sorted(copy.rglob("zarr.json"))
    file = data.draw(st.sampled_from(files))
    if data.draw(st.integers(0, 9)) == 0:
        file.write_bytes(data.draw(st.binary(max_size=40) | st.just(b"[" * 5000)))
    else:
        content = json.loads(file.read_text())
        node = content
        while True:
            key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
            if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 4)) == 0:
                node[key] = data.draw(JUNK)
                break
            node = node[key]
        file.write_text(json.dumps(content))
    try:
        outcome: Any = ask_everything(str(copy)) >= 0
    except SAID as error:
        outcome = str(error)
    shutil.rmtree(copy.parent)
    assert outcome


def test_what_is_asked_is_there_when_nothing_is_changed(whole: Path) -> None:
    assert ask_everything(str(whole)) > 0
    assert FeatureStore.open(str(whole)).datasets() == ["toy"]
