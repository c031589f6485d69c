"""Features that were made elsewhere: they come with labels and splits, and are measured without a video in sight."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from flows.cli import run
from pipeline import FeatureStore
from pipeline.errors import NotFoundError
from pipeline.recipe import load_recipe, parse_recipe
from pipeline.settings import Settings

NUM_VIDEOS, DIM = 60, 8


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    label = np.arange(NUM_VIDEOS) % 3
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["feats"] = (np.eye(DIM)[label] * 4 + rng.normal(size=(NUM_VIDEOS, DIM))).astype(np.float32)
        file["ids"] = np.array([f"vid{k:02d}" for k in range(NUM_VIDEOS)], dtype="S8")
        file["y"] = np.array(["abc"[k] for k in label], dtype="S1")
        file["set"] = np.array(["train" if k < 40 else "test" for k in range(NUM_VIDEOS)], dtype="S5")
    return tmp_path / "foreign.h5"


def imported(tmp_path: Path, foreign: Path, *more: str) -> list[str]:
    names = ["--name", "values=feats", "--name", "video_id=ids"]
    return [
        "import",
        str(tmp_path / "store"),
        str(foreign),
        "--dataset",
        "d",
        "--features",
        "whole/clip",
        *names,
        *more,
    ]


def probes_of(printed: str) -> list[dict]:
    return json.loads(printed.strip().splitlines()[-1])["probes"]


def test_a_list_of_splits_and_a_recipe_are_all_it_takes(
    tmp_path: Path, foreign: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"vid{k:02d},{'abc'[k % 3]},{'train' if k < 40 else 'test'}" for k in range(NUM_VIDEOS)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split1", *lines]))
    recipe = tmp_path / "measure.yaml"
    more = ("--splits", str(tmp_path / "list.csv"), "--recipe", str(recipe), "--shard-rows", "25")
    assert run(imported(tmp_path, foreign, *more)) == 0
    assert FeatureStore.open(str(tmp_path / "store")).dataset("d").shard_rows == 25
    assert load_recipe(recipe).dataset.kind == "stored"  # type: ignore[attr-defined]
    capsys.readouterr()
    assert run(["run", str(recipe), "--store", str(tmp_path / "store"), "--json", "-q"]) == 0
    found = probes_of(capsys.readouterr().out)
    assert {row["probe"] for row in found} == {"knn", "linear"}
    assert all(row["top1"] > 0.8 and row["used"] == 20 for row in found)
    assert run(["run", str(recipe), "--store", str(tmp_path / "store"), "--dry-run"]) == 0
    assert "3 new" not in capsys.readouterr().out
    assert run(imported(tmp_path, foreign, *more)) == 3, "a recipe that is there is not written over"


def test_labels_and_splits_may_stand_in_the_file(tmp_path: Path, foreign: Path) -> None:
    assert run(imported(tmp_path, foreign, "--name", "label=y", "--name", "split2=set")) == 0
    videos = FeatureStore.open(str(tmp_path / "store")).dataset("d").videos.to_pylist()
    assert (videos[1]["label"], dict(videos[1]["splits"])) == ("b", {"2": "train"})
    assert dict(videos[59]["splits"]) == {"2": "test"}
    assert run(imported(tmp_path, foreign, "--name", "split=y")) == 3


def test_an_export_brings_what_was_said_later_along(tmp_path: Path, foreign: Path) -> None:
    assert run(imported(tmp_path, foreign, "--shard-rows", "7")) == 0
    ds = FeatureStore.open(str(tmp_path / "store"), mode="a").dataset("d")
    ds.change_labels({3: {"label": "late", "labels": ["late"], "splits": {"1": "val"}, "group": "g"}})
    ds.select().to_hdf5(tmp_path / "out.h5", "whole", "clip")
    assert run(["import", str(tmp_path / "second"), str(tmp_path / "out.h5")]) == 0
    again = FeatureStore.open(str(tmp_path / "second")).dataset("d")
    assert again.shard_rows == 7
    row = again.videos.to_pylist()[3]
    assert (row["label"], row["labels"], dict(row["splits"]), row["group"]) == ("late", ["late"], {"1": "val"}, "g")


def test_what_was_never_imported_is_named(tmp_path: Path, foreign: Path) -> None:
    from extract import plan_catalog, plan_extract

    assert run(imported(tmp_path, foreign)) == 0
    store = FeatureStore.open(str(tmp_path / "store"))
    content = {
        "name": "r",
        "dataset": {"name": "d", "kind": "stored"},
        "crops": {"whole": {"policy": "imported", "num_crops": 1, "source": "hdf5", "geometry": "none"}},
        "backbones": {"other": {"kind": "imported"}},
        "probes": [{"kind": "knn", "crops": "whole"}],
    }
    with pytest.raises(NotFoundError, match=r"imported features whole/other of d.*scale import"):
        plan_extract(parse_recipe(content), store, Settings())
    assert plan_catalog(parse_recipe(content), store, Settings()).is_empty
    content["dataset"] = {"name": "e", "kind": "stored"}
    with pytest.raises(NotFoundError, match="expected the dataset e"):
        plan_catalog(parse_recipe(content), store, Settings())
