"""Published data sets as they are downloaded: a miniature of each layout, with names that were made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from extract import plan_catalog, run_catalog
from extract.catalog.datasets import list_rows
from pipeline import FeatureStore
from pipeline.errors import ManifestError, NoDataError, RecipeError
from pipeline.recipe.dataset import DatasetBase
from pipeline.settings import Settings
from tests.support.extraction import tiny_recipe
from tests.support.videos import numbered_frames, write_image_folder, write_video


def section(**content: Any) -> DatasetBase:
    return tiny_recipe((Path("x"), "0" * 64), dataset=content).dataset


def rows(data: Path, **content: Any) -> dict[str, tuple]:
    """Return id -> (labels, splits, group, start, end) of what a section means."""
    listed, notes = list_rows(section(**content), Settings(data=data))
    assert [video.video_id for video in listed] == sorted(video.video_id for video in listed)
    return {
        video.video_id: (note.labels, note.splits, note.group, video.start_s, video.end_s)
        for video, note in zip(listed, notes, strict=True)
    }


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def write(folder: Path, files: dict[str, str | list | dict]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


UCF = {"kind": "ucf101", "videos": "UCF-101"}


def ucf101(data: Path) -> None:
    touch(data / "UCF-101", *(f"{c}/v_{c}_g0{g}_c0{k}.avi" for c in ("Wave", "Hop") for g in (1, 2) for k in (1, 2)))
    files: dict[str, str | list | dict] = {"classInd.txt": "1 Hop\n2 Wave\n"}
    for split, held in (("01", 2), ("02", 1)):
        names = {c: [f"{c}/v_{c}_g0{g}_c0{k}.avi" for g in (1, 2) for k in (1, 2)] for c in ("Hop", "Wave")}
        train = [f"{n} {1 if c == 'Hop' else 2}" for c in names for n in names[c] if f"g0{held}" not in n]
        test = [n for c in names for n in names[c] if f"g0{held}" in n]
        files[f"trainlist{split}.txt"], files[f"testlist{split}.txt"] = "\r\n".join(train), "\n".join(test) + "\n"
    write(data / "ucfTrainTestlist", files)


def test_ucf101(tmp_path: Path) -> None:
    ucf101(tmp_path)
    found = rows(tmp_path, **UCF)
    assert len(found) == 8
    first = found["UCF-101/Hop/v_Hop_g01_c01.avi"]
    assert first == (("Hop",), {"01".lstrip("0"): "train", "2": "test"}, "Hop/g01", None, None)
    assert found["UCF-101/Wave/v_Wave_g02_c02.avi"][1:3] == ({"1": "test", "2": "train"}, "Wave/g02")
    write(tmp_path / "ucfTrainTestlist", {"trainlist03.txt": "Hop/v_Hop_g01_c01.avi 2\n"})
    with pytest.raises(ManifestError, match="line 1: expected the class of Hop/v_Hop_g01_c01"):
        rows(tmp_path, **UCF)


@pytest.mark.parametrize("kind", ["hmdb51", "jhmdb"])
def test_hmdb51_and_jhmdb(tmp_path: Path, kind: str) -> None:
    touch(tmp_path / "v", "clap/Film_A_clap_u_nm_np1_fr_med_0.avi", "clap/B_clap_x_1.avi", "clap/odd name_clap_x_2.avi")
    lines = "Film_A_clap_u_nm_np1_fr_med_0.avi 1 \nB_clap_x_1.avi 2\nodd name_clap_x_2.avi 0\n"
    write(tmp_path / "a" / "splits", {"clap_test_split1.txt": lines, "clap_test_split2.txt": "B_clap_x_1.avi 1\n"})
    found = rows(tmp_path, kind=kind, videos="v", annotations="a")
    assert found["v/clap/Film_A_clap_u_nm_np1_fr_med_0.avi"][:3] == (("clap",), {"1": "train"}, "Film_A")
    assert found["v/clap/B_clap_x_1.avi"][1] == {"1": "test", "2": "train"}
    assert found["v/clap/odd name_clap_x_2.avi"][1] == {}
    write(tmp_path / "a" / "splits", {"clap_test_split3.txt": "B_clap_x_1.avi 3\n"})
    with pytest.raises(ManifestError, match="0, 1 or 2"):
        rows(tmp_path, kind=kind, videos="v", annotations="a")


def test_kinetics_finds_what_downloaders_name_in_several_ways(tmp_path: Path) -> None:
    names = ["val/tap dance/aaaaaaaaaaa_000003_000013.mp4", "bbbbbbbbbbb_5_15.mkv", "ccccccccccc.webm"]
    touch(tmp_path / "k", *names)
    head = "label,youtube_id,time_start,time_end,split"
    tables: dict[str, str | list | dict] = {
        "train.csv": f'{head}\ntap dance,aaaaaaaaaaa,3,13,train\n"tie, knot",bbbbbbbbbbb,5,15,train\n',
        "validate.csv": f"{head},is_cc\ntap dance,ccccccccccc,20.5,30.5,validate,0\n",
        "test.csv": "youtube_id,time_start,time_end,split\nddddddddddd,0,10,test\n",
    }
    write(tmp_path / "csv", tables)
    given = {"kind": "kinetics", "videos": "k", "annotations": "csv"}
    found = rows(tmp_path, **given)
    assert found[f"k/{names[0]}"] == (("tap dance",), {"1": "train"}, "aaaaaaaaaaa", None, None)
    assert found[f"k/{names[1]}"][0] == ("tie, knot",)
    assert found["k/ccccccccccc.webm"] == (("tap dance",), {"1": "val"}, "ccccccccccc", None, None)
    assert found["k/ddddddddddd_000000_000010.mp4"][:2] == ((), {"1": "test"})
    assert len(rows(tmp_path, **given, absent="skip")) == 3
    whole = rows(tmp_path, **given, whole_videos=True)
    assert whole["k/ccccccccccc.webm#20.500-30.500"][3:] == (20.5, 30.5)
    (tmp_path / "none").mkdir()
    with pytest.raises(NoDataError, match="found none of 4"):
        rows(tmp_path, **given | {"videos": "none"})


def test_something_something_has_no_labels_on_its_test_side(tmp_path: Path) -> None:
    touch(tmp_path / "20bn", "7.webm", "8.webm", "9.webm")
    template = "Holding [something] next to [something]"
    write(
        tmp_path / "labels",
        {
            "labels.json": {"Holding something next to something": "0"},
            "train.json": [{"id": "7", "label": "holding a pen next to a cup", "template": template}],
            "validation.json": [{"id": "8", "template": template, "placeholders": ["pen", "cup"]}],
            "test.json": [{"id": "9"}],
        },
    )
    given = {"kind": "ssv2", "videos": "20bn", "annotations": "labels"}
    found = rows(tmp_path, **given)
    assert found["20bn/7.webm"][:2] == (("Holding something next to something",), {"1": "train"})
    assert found["20bn/8.webm"][1] == {"1": "val"}
    assert found["20bn/9.webm"][:2] == ((), {"1": "test"})
    write(tmp_path / "labels", {"train.json": [{"id": "7", "template": "Another [thing]"}]})
    with pytest.raises(ManifestError, match="expected a template"):
        rows(tmp_path, **given)


def test_diving48(tmp_path: Path) -> None:
    touch(tmp_path / "rgb", "d_1.mp4", "d_2.mp4")
    entries = [{"vid_name": "d_1", "label": 1, "start_frame": 0, "end_frame": 9}]
    files = {
        "Diving48_vocab.json": [["Back", "15som"], ["Inward", "25som"]],
        "Diving48_V2_train.json": entries,
        "Diving48_V2_test.json": [{"vid_name": "d_2", "label": 0}],
    }
    write(tmp_path / "a", files)
    found = rows(tmp_path, kind="diving48", videos="rgb", annotations="a")
    assert found["rgb/d_1.mp4"][:2] == (("Inward/25som",), {"1": "train"})
    assert found["rgb/d_2.mp4"][:2] == (("Back/15som",), {"1": "test"})
    numbers = [f"a/{name}" for name in files if "vocab" not in name]
    assert rows(tmp_path, kind="diving48", videos="rgb", annotations=numbers)["rgb/d_1.mp4"][0] == ("1",)


def test_charades_has_several_actions_a_video(tmp_path: Path) -> None:
    touch(tmp_path / "c", "AB12C.mp4", "XY34Z.mp4")
    head = "id,subject,scene,quality,script,actions,length\n"
    write(
        tmp_path / "a",
        {
            "Charades_v1_classes.txt": "c000 Holding some clothes\nc001 Closing a door\n",
            "Charades_v1_train.csv": head
            + 'AB12C,P1,Kitchen,6,"a, b",c000 1.50 4.00;c001 3.00 9.20;c000 8.00 9.00,30\n',
            "Charades_v1_test.csv": head + "XY34Z,P2,Hall,6,none,,12\n",
        },
    )
    given = {"kind": "charades", "videos": "c", "annotations": "a"}
    found = rows(tmp_path, **given)
    assert found["c/AB12C.mp4"] == (("Holding some clothes", "Closing a door"), {"1": "train"}, "P1", None, None)
    assert found["c/XY34Z.mp4"][:2] == ((), {"1": "test"})
    parts = rows(tmp_path, **given, rows="actions")
    assert parts["c/AB12C.mp4#3.000-9.200"] == (("Closing a door",), {"1": "train"}, "P1", 3.0, 9.2)
    assert len(parts) == 3


def test_epic_kitchens_rows_are_parts_of_long_videos(tmp_path: Path) -> None:
    touch(tmp_path / "EPIC", "P01/videos/P01_01.MP4")
    head = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class\n"
    write(
        tmp_path / "a",
        {
            "EPIC_100_train.csv": head + "P01_01_0,P01,P01_01,00:00:00.90,00:01:01.40,switch-on,6,tap,0\n",
            "EPIC_100_validation.csv": head + "P02_03_0,P02,P02_03,00:00:10.00,00:00:12.00,take,0,plate,2\n",
            "EPIC_100_verb_classes.csv": "id,key,instances,category\n0,take,x,y\n6,turn-on,\"['a', 'b']\",y\n",
        },
    )
    given = {"kind": "epic_kitchens", "videos": "EPIC", "annotations": "a"}
    found = rows(tmp_path, **given)
    assert found["EPIC/P01/videos/P01_01.MP4#0.900-61.400"] == (("turn-on",), {"1": "train"}, "P01_01", 0.9, 61.4)
    assert found["EPIC/P02/videos/P02_03.MP4#10.000-12.000"][1] == {"1": "val"}
    assert [r[0] for r in rows(tmp_path, **given, label="action").values()] == [("turn-on 0",), ("take 2",)]


def test_finegym_finds_cut_files_or_the_part_of_a_broadcast(tmp_path: Path) -> None:
    cut, whole = "aaaaaaaaaaa_E_000010_000020_A_0001_0003", "bbbbbbbbbbb_E_000100_000150_A_0002_0004"
    touch(tmp_path / "g", f"{cut}.mp4", "bbbbbbbbbbb.mp4")
    segment = {"A_0002_0004": {"stages": 1, "timestamps": [[2.5, 4.25]]}}
    times = {"bbbbbbbbbbb": {"E_000100_000150": {"timestamps": [[100.5, 150.0]], "event": 1, "segments": segment}}}
    write(
        tmp_path / "a",
        {
            "finegym_annotation_info_v1.1.json": times,
            "gym99_train_element_v1.1.txt": f"{cut} 3\n",
            "gym99_val_element.txt": f"{whole} 4\n",
            "gym99_categories.txt": "Clabel: 3; set: 1; Gym530: 2; (VT) round-off\n",
        },
    )
    given = {"kind": "finegym", "videos": "g", "annotations": "a"}
    found = rows(tmp_path, **given)
    assert found[f"g/{cut}.mp4"][1:] == ({"1": "train"}, "aaaaaaaaaaa", None, None)
    assert found["g/bbbbbbbbbbb.mp4#103.000-104.750"][1:] == ({"1": "val"}, "bbbbbbbbbbb", 103.0, 104.75)
    assert "round-off" in found[f"g/{cut}.mp4"][0][0]
    (tmp_path / "a" / "finegym_annotation_info_v1.1.json").unlink()
    with pytest.raises(ManifestError, match="annotation JSON"):
        rows(tmp_path, **given)


@pytest.mark.parametrize("kind", ["ava", "ava_kinetics"])
def test_boxes_around_people_are_refused_by_name(kind: str) -> None:
    with pytest.raises(RecipeError, match="boxes around people"):
        section(kind=kind)


def test_lists_without_a_header(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a b.mp4", "c.mp4", "d.mp4")
    write(tmp_path, {"train.txt": "a b.mp4 0\nc.mp4 1\n", "val.txt": "d.mp4 1\n", "classes.txt": "wave\nhop\n"})
    given = {"kind": "list", "videos": "v", "lists": {"train": "train.txt", "val": "val.txt"}}
    assert rows(tmp_path, **given)["v/a b.mp4"][:2] == (("0",), {"1": "train"})
    found = rows(tmp_path, **given, classes="classes.txt", split="mine")
    assert found["v/d.mp4"][:2] == (("hop",), {"mine": "val"})
    (tmp_path / "wide.txt").write_bytes("d.mp4;1.5;2.5;x,y\n".encode("utf-16"))
    columns = ["path", "start_s", "end_s", "labels"]
    one = {"kind": "list", "videos": "v", "lists": {"none": "wide.txt"}, "separator": "semicolon", "columns": columns}
    assert rows(tmp_path, **one) == {"v/d.mp4#1.500-2.500": (("x", "y"), {}, "v/d.mp4", 1.5, 2.5)}
    with pytest.raises(ManifestError, match="line 1: expected 4 columns"):
        rows(tmp_path, **one | {"separator": "tab"})
    write(tmp_path, {"bad.txt": "c.mp4 7\n"})
    with pytest.raises(ManifestError, match="one of 2 classes, found '7'"):
        rows(tmp_path, **given | {"lists": {"test": "bad.txt"}, "classes": "classes.txt"})
    write(tmp_path, {"val.txt": "c.mp4 1\n"})
    with pytest.raises(ManifestError, match="one side of split 1"):
        rows(tmp_path, **given)


def frames_folder(folder: Path) -> Path:
    """40 pictures with optical flow beside them, as mmaction extracts them."""
    for stem, count in (("img_", 12), ("flow_x_", 12), ("flow_y_", 12)):
        write_image_folder(folder, numbered_frames(count), suffix=".png", stem=stem)
    return folder


def test_pictures_and_flow_in_one_folder_are_three_streams(tmp_path: Path) -> None:
    frames_folder(tmp_path / "rawframes" / "clap" / "v1")
    write(tmp_path, {"list.txt": "clap/v1 40 0\n", "classes.txt": "0 clap\n"})
    where = {"kind": "rawframes", "videos": "rawframes"}
    given = where | {"lists": {"train": "list.txt"}, "classes": "classes.txt", "fps": 15}
    assert rows(tmp_path, **given)["rawframes/clap/v1/img_*"][:2] == (("clap",), {"1": "train"})
    assert list(rows(tmp_path, **where, stem="flow_x_")) == ["rawframes/clap/v1/flow_x_*"]
    with pytest.raises(NoDataError, match="found flow_x_, flow_y_, img_"):
        rows(tmp_path, **where, stem="frame_")
    recipe = tiny_recipe((tmp_path, "0" * 64), dataset=given)
    store, settings = FeatureStore.create(str(tmp_path / "store")), Settings(data=tmp_path)
    run_catalog(plan_catalog(recipe, store, settings), store, settings)
    (video,) = store.dataset("set").videos.to_pylist()
    assert (video["num_frames"], video["fps"], video["probe_error"]) == (12, 15.0, None)
    assert video["duration_s"] == pytest.approx(12 / 15)


def test_a_miniature_becomes_rows_with_facts(tmp_path: Path) -> None:
    ucf101(tmp_path)
    for path in (tmp_path / "UCF-101").rglob("*.avi"):
        path.unlink()
        write_video(path, numbered_frames(9), codec="mpeg4", b_frames=0)
    gone = next((tmp_path / "UCF-101").rglob("*.avi"))
    gone.unlink()
    recipe, settings = tiny_recipe((tmp_path, "0" * 64), dataset=UCF), Settings(data=tmp_path)
    store = FeatureStore.create(str(tmp_path / "store"))
    run_catalog(plan_catalog(recipe, store, settings), store, settings)
    videos = {row["video_id"]: row for row in store.dataset("set").videos.to_pylist()}
    assert len(videos) == 8
    missing = videos.pop(gone.relative_to(tmp_path).as_posix())
    assert "missing" in missing["probe_error"]
    assert {row["num_frames"] for row in videos.values()} == {9}
