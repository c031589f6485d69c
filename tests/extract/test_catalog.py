from __future__ import annotations

import os
import re
import shutil
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from extract.catalog import inspect_videos
from extract.catalog import stage as catalog
from extract.catalog.inspect_videos import worthwhile_processes
from extract.catalog.stage import plan_catalog, run_catalog
from extract.decoding.decode_pool import DecodePool
from extract.decoding.inspect import VideoInfo
from pipeline import FeatureStore
from pipeline.errors import NoDataError
from pipeline.events import Event, Note, Progress, StageFinished, StageStarted, VideoFailed
from pipeline.recipe import Recipe
from pipeline.settings import Settings
from tests.support.videos import (
    numbered_frames,
    rotate_header,
    truncate,
    write_image_folder,
    write_text_named_mp4,
    write_video,
)


def recipe(**dataset: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "dataset": {"name": "d", "videos": "**/*", "labels": {"from": "folder"}} | dataset,
            "crops": {
                "c": {
                    "policy": "grid",
                    "temporal": 1,
                    "spatial": 1,
                    "num_frames": 2,
                    "stride": 1,
                    "short_side_px": 32,
                    "size_px": 32,
                }
            },
            "backbones": {"b": {"kind": "pytorchvideo", "model": "x3d_xs", "weights": {"random": 0}}},
        }
    )


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    write_video(folder / "run" / "a.mp4", numbered_frames(30), fps=15)
    rotate_header(write_video(folder / "run" / "b.mp4", numbered_frames(20)), 90)
    write_video(folder / "jump" / "-dash+&=?.avi", numbered_frames(25), codec="mpeg4", fps=25)
    truncate(
        write_video(folder / "jump" / "cut.mp4", numbered_frames(60), container_options={"movflags": "faststart"}), 0.7
    )
    write_text_named_mp4(folder / "jump" / "text.mp4")
    write_image_folder(folder / "jump" / "frames", numbered_frames(6))
    return folder


@pytest.fixture
def data(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals, tmp_path / "data"))


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore.create(str(tmp_path / "store"))


def run(data: Path, store: FeatureStore, *, events: list[Event] | None = None, **dataset: Any):
    settings = Settings(data=data)
    plan = plan_catalog(recipe(**dataset), store, settings)
    return plan, run_catalog(plan, store, settings, on_event=(events if events is not None else []).append)


def rows(store: FeatureStore) -> dict[str, dict]:
    return {row["video_id"]: row for row in store.dataset("d").videos.to_pylist()}


def test_a_folder_becomes_a_catalogue(data: Path, store: FeatureStore) -> None:
    events: list[Event] = []
    plan, report = run(data, store, events=events)
    assert not plan.is_empty
    assert "6 new videos" in plan.summary()
    assert report.did == {"videos_new": 6, "videos_known": 0, "videos_unreadable": 1}
    assert [(s.video_id, s.status) for s in report.skipped] == [("jump/text.mp4", "unreadable")]
    found = rows(store)
    assert [row["row"] for row in found.values()] == list(range(6))
    assert sorted(found) == list(found)
    a = found["run/a.mp4"]
    assert (a["num_frames"], a["duration_s"], a["fps"]) == (30, pytest.approx(2.0), pytest.approx(15.0))
    assert (a["width"], a["height"], a["codec"], a["label"], a["labels"]) == (80, 48, "h264", "run", ["run"])
    assert (a["bytes"], a["group"], a["probe_error"]) == ((data / "run/a.mp4").stat().st_size, "run/a.mp4", None)
    assert a["uri"] == (data / "run/a.mp4").as_uri()
    b = found["run/b.mp4"]
    assert (b["width"], b["height"], b["rotation_deg"]) == (48, 80, 90)
    assert found["jump/-dash+&=?.avi"]["num_frames"] == 25
    assert found["jump/frames"]["codec"] == "images/png"
    assert 0 < found["jump/cut.mp4"]["num_frames"] < 60
    assert found["jump/cut.mp4"]["probe_error"] is None  # readable up to there
    text = found["jump/text.mp4"]
    assert "FFmpeg" in text["probe_error"]
    assert (text["num_frames"], text["width"], text["codec"]) == (None, None, None)
    assert text["sha256"] is not None
    kinds = [type(event) for event in events]
    assert (kinds[0], kinds[-1]) == (StageStarted, StageFinished)
    assert kinds.count(VideoFailed) == 1
    assert [event.done for event in events if isinstance(event, Progress)] == [1, 2, 3, 4, 5, 6]


def test_again_does_nothing_and_new_videos_are_appended(
    data: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, store)
    before = rows(store)
    with monkeypatch.context() as patched:
        patched.setattr(catalog, "probe_videos", lambda paths, **options: pytest.fail("nothing is new"))
        plan, report = run(data, store, videos="**/*.{mp4,avi}")
    assert plan.is_empty
    assert report.did == {"videos_new": 0, "videos_known": 5, "videos_unreadable": 0}
    shutil.copy(data / "run/a.mp4", data / "run/0.mp4")
    plan, report = run(data, store)
    assert [video.video_id for video in plan.new] == ["run/0.mp4"]
    assert report.did == {"videos_new": 1, "videos_known": 6, "videos_unreadable": 0}
    after = rows(store)
    assert after.pop("run/0.mp4")["row"] == 6
    assert after == before


def test_other_bytes_under_a_known_id_that_gave_no_feature_are_simply_catalogued(
    data: Path, store: FeatureStore
) -> None:
    run(data, store)
    before = rows(store)
    path = data / "run/a.mp4"
    shutil.copy(data / "run/b.mp4", path)
    os.utime(path, (0, 0))  # even if its modification time is set back
    shutil.copy(data / "run/b.mp4", data / "run/c.mp4")
    plan, report = run(data, store)
    assert report.did == {"videos_new": 1, "videos_known": 6, "videos_unreadable": 0}
    after = rows(store)
    assert len(after) == 7  # one odd file keeps no other out
    assert after["run/a.mp4"]["row"] == before["run/a.mp4"]["row"]
    assert after["run/a.mp4"]["sha256"] == before["run/b.mp4"]["sha256"]
    assert (after["run/a.mp4"]["num_frames"], after["run/a.mp4"]["rotation_deg"]) == (20, 90)
    assert after["run/a.mp4"]["label"] == "run"
    assert {name: row for name, row in after.items() if name in before and name != "run/a.mp4"} == {
        name: row for name, row in before.items() if name != "run/a.mp4"
    }
    plan, report = run(data, store)
    assert [known.video.video_id for known in plan.to_check] == ["jump/frames"]  # whose times do not tell


def test_a_touched_video_with_the_same_bytes_is_known(data: Path, store: FeatureStore) -> None:
    run(data, store)
    (data / "run/a.mp4").touch()
    plan, report = run(data, store)
    assert "run/a.mp4" in [known.video.video_id for known in plan.to_check]
    assert report.did == {"videos_new": 0, "videos_known": 6, "videos_unreadable": 0}


def test_an_image_folder_that_changed_is_noticed(data: Path, store: FeatureStore) -> None:
    run(data, store)
    before = rows(store)["jump/frames"]
    shutil.copy(data / "jump/frames/frame1.png", data / "jump/frames/frame2.png")
    run(data, store)
    after = rows(store)["jump/frames"]
    assert after["sha256"] != before["sha256"]
    assert (after["row"], after["num_frames"]) == (before["row"], 6)


def test_files_of_a_manifest_that_are_missing_are_rows(data: Path, store: FeatureStore) -> None:
    (data / "list.csv").write_text("path,label,split1,film\nrun/a.mp4,x,train,f1\ngone.mp4,y,test,f2\n")
    options = {
        "videos": "list.csv",
        "labels": {"from": "column", "column": "label"},
        "splits": {"from": "columns"},
        "group": {"from": "column", "column": "film"},
    }
    _, report = run(data, store, **options)
    assert [(s.video_id, s.status) for s in report.skipped] == [("gone.mp4", "missing")]
    gone = rows(store)["gone.mp4"]
    assert (gone["sha256"], gone["label"], dict(gone["splits"]), gone["group"]) == (None, "y", {"1": "test"}, "f2")
    assert "missing" in gone["probe_error"]
    shutil.copy(data / "run/b.mp4", data / "gone.mp4")  # it came: its row stays, and gets its facts
    events: list[Event] = []
    plan, report = run(data, store, events=events, **options)
    assert not plan.is_empty
    assert report.did == {"videos_new": 0, "videos_known": 2, "videos_unreadable": 0, "videos_late": 1}
    assert "1 videos could not be used before and can now: 'gone.mp4'" in [
        e.text for e in events if isinstance(e, Note)
    ]
    came, b = rows(store)["gone.mp4"], (data / "run/b.mp4")
    assert (came["row"], came["num_frames"], came["height"], came["label"]) == (gone["row"], 20, 80, "y")
    assert (came["bytes"], came["probe_error"], came["added_at"]) == (b.stat().st_size, None, gone["added_at"])
    assert run(data, store, **options)[0].is_empty


def test_changed_labels_are_taken_and_vanished_videos_said(data: Path, store: FeatureStore) -> None:
    run(data, store)
    (data / "run/a.mp4").unlink()
    events: list[Event] = []
    plan, report = run(data, store, events=events, labels={"from": "regex", "pattern": "(.)/"})
    assert (plan.num_gone, plan.num_relabelled, plan.is_empty) == (1, 5, False)
    assert report.did["videos_relabelled"] == 5
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "1 videos of the catalogue are not found any more" in notes[0]
    assert "5 known videos come with other labels" in notes[1]
    assert re.search(r"\((run|jump)/[^:]+: label '\1' -> '[np]'\)", notes[1])
    assert rows(store)["run/b.mp4"]["label"] == "n"
    assert rows(store)["run/a.mp4"]["label"] == "run"  # the recipe no longer finds it, and says nothing of it
    again, _ = run(data, store, labels={"from": "regex", "pattern": "(.)/"})
    assert again.num_relabelled == 0
    silent, _ = run(data, store, labels={"from": "none"})  # a recipe that names no labels takes none away
    assert silent.num_relabelled == 0
    assert rows(store)["run/b.mp4"]["label"] == "n"


def test_labels_given_by_hand_stay_until_they_are_released(data: Path, store: FeatureStore) -> None:
    run(data, store)
    dataset = store.dataset("d")
    row = dataset.row_of("run/b.mp4")
    dataset.change_labels({row: {"label": "walk", "labels": ["walk"]}})
    events: list[Event] = []
    plan, _ = run(data, store, events=events)
    assert (plan.num_kept_by_hand, plan.num_relabelled) == (1, 0)
    assert any("--release" in event.text for event in events if isinstance(event, Note))
    assert rows(store)["run/b.mp4"]["label"] == "walk"
    store.dataset("d").change_labels({row: {}}, by="recipe")
    run(data, store)
    assert rows(store)["run/b.mp4"]["label"] == "run"


def test_what_a_list_does_not_match_is_counted_and_letters_may_be_composed_otherwise(
    data: Path, store: FeatureStore
) -> None:
    (data / "run/b.mp4").rename(data / "run" / unicodedata.normalize("NFD", "löffel.mp4"))
    (data / "labels.csv").write_text("path,label\nrun/löffel.mp4,spoon\nrun/a.mp4,x\nzzz.mp4,y\n")
    events: list[Event] = []
    run(data, store, events=events, videos="**/*.mp4", labels={"from": "csv", "path": "labels.csv"})
    notes = [event.text for event in events if isinstance(event, Note)]
    assert notes[0] == "1 of 3 rows of labels in labels.csv match no video: 'zzz.mp4'"
    assert re.fullmatch(r"2 of 4 videos without a label, such as '.+'", notes[1])
    assert rows(store)[unicodedata.normalize("NFD", "run/löffel.mp4")]["label"] == "spoon"


def test_a_plan_needs_no_dataset_and_opens_no_video(data: Path, store: FeatureStore, monkeypatch) -> None:
    monkeypatch.setattr(catalog, "probe_videos", lambda paths, **options: pytest.fail("a plan opens nothing"))
    reader = FeatureStore.open(store.url)
    plan = plan_catalog(recipe(), reader, Settings(data=data))
    assert [row["why"] for row in plan.table()] == ["new"] * 6
    assert all(row.keys() == plan.table()[0].keys() for row in plan.table())
    assert store.datasets() == []
    assert plan_catalog(recipe(videos=[f"run/{'?' * 5}"] * 2), reader, Settings(data=data)).num_known == 0


def test_a_long_plan_is_cut_in_print(data: Path, store: FeatureStore) -> None:
    plan = plan_catalog(recipe(), store, Settings(data=data))
    table = replace(plan, new=plan.new * 6, annotations=plan.annotations * 6).table()
    assert len(table) == 31
    assert table[-1]["video"] == "... 6 more"


def test_an_interrupted_run_keeps_the_commits_it_made(data: Path, store: FeatureStore) -> None:
    settings = Settings(data=data)

    def stop(event: Event) -> None:
        if isinstance(event, Progress) and event.done == 5:
            raise KeyboardInterrupt

    plan = plan_catalog(recipe(), store, settings)
    with pytest.raises(KeyboardInterrupt):
        run_catalog(plan, store, settings, on_event=stop, commit_videos=2)
    assert len(rows(store)) == 4
    assert [video.video_id for video in plan_catalog(recipe(), store, settings).new] == sorted(
        video.video_id for video in plan.new
    )[4:]
    run(data, store)
    assert len(rows(store)) == 6


def test_a_video_whose_reading_was_killed_is_no_row_and_new_again(
    data: Path, store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row is for good: `unreadable` because memory was short one night would be so for ever."""
    inspect = DecodePool.inspect

    def killed_once(pool: DecodePool, path: Path, **options: Any) -> VideoInfo:
        if path.name == "b.mp4":
            return VideoInfo(error="the decoding process was killed", status="interrupted")
        return inspect(pool, path, **options)

    events: list[Event] = []
    with monkeypatch.context() as patched:
        patched.setattr(DecodePool, "inspect", killed_once)
        _, report = run(data, store, events=events)
    assert report.did["videos_interrupted"] == 1
    assert report.is_partial
    assert any(isinstance(e, Note) and "run again to take them in" in e.text for e in events)
    assert not [video_id for video_id in rows(store) if video_id.endswith("run/b.mp4")]
    _, again = run(data, store)
    assert again.did["videos_new"] == 1
    assert not again.is_partial
    assert [row["probe_error"] for video_id, row in rows(store).items() if video_id.endswith("run/b.mp4")] == [None]


def test_a_process_is_started_only_for_what_is_worth_its_start(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(inspect_videos, "num_cores", lambda: 4)

    def files(num: int, num_bytes: int) -> list[Path]:
        paths = [tmp_path / f"{num_bytes}-{k}.mp4" for k in range(num)]
        for path in paths:
            with path.open("wb") as file:
                file.truncate(num_bytes)  # sparse
        return paths

    few, large = files(3, 5_000), files(2, 200 << 20)
    assert worthwhile_processes(few) == 1
    assert worthwhile_processes(files(35, 5_001)) == 2
    assert worthwhile_processes(large) == worthwhile_processes([tmp_path] * 9) == 4
    assert worthwhile_processes([*few, tmp_path / "gone.mp4", Path("a\0b")]) == 1


def test_two_runs_at_once_append_every_video_once(data: Path, store: FeatureStore) -> None:
    settings = Settings(data=data)
    first, second = (plan_catalog(recipe(), store, settings) for _ in range(2))
    run_catalog(first, store, settings)
    report = run_catalog(second, store, settings)
    assert report.did == {"videos_new": 0, "videos_known": 6, "videos_unreadable": 0}
    assert len(rows(store)) == 6


def test_an_empty_folder_says_what_was_expected(store: FeatureStore, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoDataError, match=r"expected videos that match \*\*/\*"):
        run(tmp_path / "empty", store)


def test_names_that_are_not_utf8_become_rows(data: Path, store: FeatureStore) -> None:
    shutil.copy(data / "run/a.mp4", os.fsencode(data) + b"/run/na\xd3me.mp4")
    run(data, store)
    row = rows(store)["run/na\\xd3me.mp4"]
    assert (row["num_frames"], row["uri"][-11:]) == (30, "na%D3me.mp4")


def test_added_at_is_now(data: Path, store: FeatureStore) -> None:
    before = datetime.now(UTC)
    run(data, store)
    assert all(before <= row["added_at"] <= datetime.now(UTC) for row in rows(store).values())


@pytest.mark.shared_data
def test_the_shipped_recipe_finds_its_videos(shared_data: Path, store: FeatureStore) -> None:
    shipped = Path(__file__).parents[2] / "flows" / "recipes" / "jhmdb12_mobilenet.yaml"
    loaded = Recipe.model_validate(yaml.safe_load(shipped.read_text()))
    settings = Settings(data=shared_data / "jhmdb12")
    report = run_catalog(plan_catalog(loaded, store, settings), store, settings)
    assert report.did == {"videos_new": 216, "videos_known": 0, "videos_unreadable": 0}
    videos = store.dataset("jhmdb12").videos.to_pylist()
    sides = [dict(row["splits"])["1"] for row in videos]
    assert (sides.count("train"), sides.count("test"), len({row["label"] for row in videos})) == (144, 72, 12)
