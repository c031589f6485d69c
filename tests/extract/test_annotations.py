from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extract.catalog.annotations import Annotation, annotate
from extract.catalog.datasets import list_rows
from extract.catalog.find_videos import ListedVideo
from pipeline.errors import ManifestError, NotFoundError
from pipeline.recipe.dataset import DatasetSpec
from pipeline.settings import Settings

IDS = ["train/run/g1_a.mp4", "train/run/g1_b.mp4", "test/jump/g2_a.mp4", "loose.mp4"]


def give(tmp_path: Path, rows: list[dict] | None = None, ids: list[str] = IDS, **spec: Any) -> list[Annotation]:
    rows = rows or [{} for _ in ids]
    videos = [ListedVideo(video_id, tmp_path / video_id, row) for video_id, row in zip(ids, rows, strict=True)]
    return annotate(
        videos, DatasetSpec.model_validate({"name": "d", "videos": "x.csv"} | spec), Settings(data=tmp_path)
    )


def test_without_sources_every_video_is_its_own_group(tmp_path: Path) -> None:
    assert give(tmp_path) == [Annotation(None, (), {}, video_id) for video_id in IDS]


def test_values_from_folders_and_expressions(tmp_path: Path) -> None:
    notes = give(
        tmp_path, labels={"from": "folder"}, splits={"from": "folder"}, group={"from": "regex", "pattern": r"/(g\d+)_"}
    )
    assert [note.label for note in notes] == ["run", "run", "jump", None]
    assert [note.splits for note in notes] == [{"1": "train"}, {"1": "train"}, {"1": "test"}, {}]
    assert [note.group for note in notes] == ["g1", "g1", "g2", "loose.mp4"]


def test_values_from_manifest_columns(tmp_path: Path) -> None:
    rows = [
        {"label": "a;b ;a", "split1": "Train", "split_2": "validation", "film": "f"},
        {"label": None, "split1": None, "split_2": "test", "film": None},
    ]
    one, two = give(
        tmp_path,
        rows,
        ids=IDS[:2],
        labels={"from": "column", "column": "label"},
        label_separator=";",
        splits={"from": "columns"},
        group={"from": "column", "column": "film"},
    )
    assert one == Annotation(None, ("a", "b"), {"1": "train", "2": "val"}, "f")
    assert two == Annotation(None, (), {"2": "test"}, IDS[1])


def test_a_list_in_a_parquet_manifest_is_many_labels(tmp_path: Path) -> None:
    (note,) = give(tmp_path, [{"label": ["x", "y"]}], ids=IDS[:1], labels={"from": "column", "column": "label"})
    assert (note.label, note.labels) == (None, ("x", "y"))


def test_values_from_files_by_path_or_id(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"path,label\n./{IDS[0]},007\n{IDS[2]},jump\nother.mp4,z\n")
    (tmp_path / "splits.csv").write_text(f"video_id,split,split3,fold\n{IDS[0]},train,,a\n{IDS[2]},test,val,b\n")
    notes = give(tmp_path, labels={"from": "csv", "path": "labels.csv"}, splits={"from": "csv", "path": "splits.csv"})
    assert [note.label for note in notes] == ["007", None, "jump", None]
    assert [note.splits for note in notes] == [{"1": "train"}, {}, {"1": "test", "3": "val"}, {}]


def test_random_splits_go_by_group_and_stay_when_videos_are_added(tmp_path: Path) -> None:
    ids = [f"g{k % 50}_{k}.mp4" for k in range(400)]
    spec = {
        "splits": {"from": "random", "test_fraction": 0.3, "seed": 1},
        "group": {"from": "regex", "pattern": r"^(g\d+)_"},
    }
    notes = give(tmp_path, ids=ids, **spec)
    sides = {note.group: note.splits["1"] for note in notes}
    assert all(note.splits["1"] == sides[note.group] for note in notes)
    assert 5 <= sum(side == "test" for side in sides.values()) <= 25
    assert give(tmp_path, ids=ids[:40], **spec) == notes[:40]
    other = give(tmp_path, ids=ids, **spec | {"splits": {"from": "random", "seed": 2}})
    assert [n.splits for n in other] != [n.splits for n in notes]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"labels": {"from": "column", "column": "class"}}, "expected a column 'class', found label"),
        ({"labels": {"from": "regex", "pattern": "("}}, "regular expression"),
        ({"labels": {"from": "regex", "pattern": "abc"}}, "one group"),
        ({"splits": {"from": "columns"}}, "columns named split"),
        ({"splits": {"from": "columns", "columns": {"1": "fold"}}}, "expected a column 'fold'"),
        (
            {"splits": {"from": "columns", "columns": {"1": "label"}}},
            "expected train, val, test or nothing in column label",
        ),
        ({"labels": {"from": "csv", "path": "foreign.csv"}}, "none of its 1 rows belongs to a video"),
        ({"labels": {"from": "csv", "path": "twice.csv"}}, "once"),
        ({"labels": {"from": "csv", "path": "keyless.csv"}}, "`path` or `video_id`"),
        ({"labels": {"from": "csv", "path": "labels.csv", "column": "class"}}, "expected a column 'class'"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path: Path, spec: dict, reason: str) -> None:
    (tmp_path / "foreign.csv").write_text("path,label\nelsewhere/x.mp4,a\n")
    (tmp_path / "twice.csv").write_text(f"path,label\n{IDS[0]},a\n{IDS[0]},b\n")
    (tmp_path / "keyless.csv").write_text("name,label\nx,a\n")
    (tmp_path / "labels.csv").write_text(f"path,label\n{IDS[0]},a\n")
    with pytest.raises(ManifestError, match=reason):
        give(tmp_path, [{"label": "x"}], ids=IDS[:1], **spec)


def test_a_missing_label_file_names_the_places_tried(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="tried"):
        give(tmp_path, labels={"from": "csv", "path": "none.csv"})


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, "columns label, class_id, split, split2"),
        ({"labels": {"from": "column", "column": "label"}, "splits": {"from": "columns"}}, "columns class_id"),
        (
            {"splits": {"from": "columns", "columns": {"1": "split2"}}, "ignore": ["class_id", "label"]},
            "columns split of",
        ),
        ({"splits": {"from": "columns"}, "ignore": ["class_id", "label"]}, None),
    ],
)
def test_columns_of_labels_and_splits_that_nobody_reads_are_named(
    tmp_path: Path, spec: dict, expected: str | None
) -> None:
    (tmp_path / "list.csv").write_text("path,label,class_id,note,split,split2\na.mp4,x,3,ok,train,test\n")
    dataset = DatasetSpec.model_validate({"name": "d", "videos": "list.csv", **spec})
    _, annotations = list_rows(dataset, Settings(data=tmp_path))
    notes = [note for note in annotations.notes if "are not read" in note]  # type: ignore[attr-defined]
    assert [note.startswith(expected or "-") for note in notes] == ([True] if expected else [])
