"""Files that come late, are half copied or replaced: the features are those of a store that saw the last file alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from extract.catalog.stage import plan_catalog, run_catalog
from extract.run.plan import plan_extract
from extract.run.stage import run_extract
from pipeline import FeatureStore
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from pipeline.verify.verify_store import verify_store
from tests.support.extraction import assert_same_features, extract_all, make_videos, read_everything, tiny_recipe
from tests.support.videos import numbered_frames, write_video

CROPS = {"train4": {"policy": "random", "num_crops": 4, "num_frames": 4, "stride": 2, "size_px": 16,
                    "short_side_px": [18, 30]}}  # fmt: skip


@pytest.fixture
def recipe(program: tuple[Path, str]) -> Recipe:
    return tiny_recipe(program, crops=CROPS, shard_rows=2, dataset={"videos": "list.csv"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = make_videos(tmp_path / "videos", [20, 24, 28])
    write_video(folder / "vlate.mp4", numbered_frames(40, seed=9, height=48))
    shutil.move(folder / "vlate.mp4", tmp_path / "vlate.mp4")
    names = ["v000.mp4", "vlate.mp4", "v001.mp4", "v002.mp4"]
    (folder / "list.csv").write_text("\n".join(["path", *names]) + "\n")
    return folder


def rerun(recipe: Recipe, store: FeatureStore, settings: Settings, *, replace: bool = False):
    plan = plan_catalog(recipe, store, settings, replace=replace)
    catalogued = run_catalog(plan, store, settings)
    return catalogued, run_extract(plan_extract(recipe, store, settings), store, settings)


def as_if_new(recipe: Recipe, folder: Path, settings: Settings) -> dict[str, dict[str, np.ndarray]]:
    """Return what a store holds that has seen the files only as they are now."""
    return read_everything(extract_all(recipe, folder, settings)[0], recipe)


@pytest.mark.parametrize("begun", [pytest.param(0, marks=pytest.mark.slow), 2000])
def test_a_late_or_half_copied_file_is_taken_as_soon_as_it_is_whole(
    data: Path, tmp_path: Path, recipe: Recipe, begun: int
) -> None:
    settings = Settings(data=data, workers=1)
    later, whole = data / "vlate.mp4", (tmp_path / "vlate.mp4").read_bytes()
    if begun:
        later.write_bytes(whole[:begun])
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    before = read_everything(store, recipe)["train4/tiny"]
    shards = {path: path.read_bytes() for path in (tmp_path / "s").rglob("values/c.0.0.0")}
    assert before["status"].tolist() == ["ok", "ok", "ok", "unreadable" if begun else "missing"]
    later.write_bytes(whole)
    catalogued, extracted = rerun(recipe, store, settings)
    assert catalogued.did["videos_late"] == 1
    assert not catalogued.is_partial
    assert extracted.did["videos_ok"] == 1
    assert_same_features(read_everything(store, recipe), as_if_new(recipe, tmp_path / "fresh", settings))
    assert {path: path.read_bytes() for path in shards} == shards  # no other shard was touched
    assert verify_store(store).problems == ()
    assert rerun(recipe, store, settings)[1].did["shards_done"] == 0


@pytest.mark.slow
def test_a_replaced_file_that_gave_features_waits_for_its_name(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    settings = Settings(data=data, workers=1)
    shutil.copy(tmp_path / "vlate.mp4", data / "vlate.mp4")
    store, _ = extract_all(recipe, tmp_path / "s", settings)
    before, snapshot = read_everything(store, recipe), store.dataset("set").snapshot()
    write_video(data / "vlate.mp4", numbered_frames(33, seed=3))
    write_video(data / "znew.mp4", numbered_frames(21, seed=4))
    with (data / "list.csv").open("a") as listed:
        listed.write("znew.mp4\n")
    catalogued, extracted = rerun(recipe, store, settings)
    assert catalogued.did | {"videos_new": 1, "videos_changed": 1} == catalogued.did  # the odd one stops no other
    assert "scale catalog --replace" in catalogued.undone
    assert extracted.did["videos_ok"] == 1
    kept = read_everything(store, recipe)["train4/tiny"]
    np.testing.assert_array_equal(kept["values"][:4], before["train4/tiny"]["values"])

    catalogued, extracted = rerun(recipe, store, settings, replace=True)
    assert catalogued.did["videos_replaced"] == 1
    assert not catalogued.is_partial
    assert extracted.did["videos_ok"] == 1
    now = read_everything(store, recipe)
    assert_same_features(now, as_if_new(recipe, tmp_path / "fresh", settings))
    assert not np.array_equal(now["train4/tiny"]["values"][3], before["train4/tiny"]["values"][3])
    assert store.dataset("set").snapshot() != snapshot
    assert verify_store(store).problems == ()


@pytest.mark.slow
def test_no_feature_is_made_of_other_bytes_than_the_catalogue_says(data: Path, tmp_path: Path, recipe: Recipe) -> None:
    """A file of the same length and size of picture, put there after it was catalogued."""
    settings = Settings(data=data, workers=1)
    shutil.copy(tmp_path / "vlate.mp4", data / "vlate.mp4")
    store = FeatureStore.create(str(tmp_path / "s"))
    run_catalog(plan_catalog(recipe, store, settings), store, settings)
    content = bytearray((data / "vlate.mp4").read_bytes())
    content[-40] ^= 1
    (data / "vlate.mp4").write_bytes(content)
    run_extract(plan_extract(recipe, store, settings), store, settings)
    found = read_everything(store, recipe)["train4/tiny"]
    assert found["status"].tolist() == ["ok", "ok", "ok", "unreadable"]
    assert "changed since it was catalogued" in found["error"][3]
    catalogued, _ = rerun(recipe, store, settings)
    assert "videos_changed" not in catalogued.did
    assert read_everything(store, recipe)["train4/tiny"]["status"][3] != "pending"
    assert_same_features(read_everything(store, recipe), as_if_new(recipe, tmp_path / "fresh", settings))
