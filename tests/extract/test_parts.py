"""Rows that are parts of files: what they show lies inside, ids are stable, a file is looked at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract import plan_catalog, plan_extract, run_catalog, run_extract
from extract.auditing import audit
from extract.catalog import inspect_videos
from extract.catalog.find_videos import resolve_video
from extract.catalog.parts import facts_of_part, file_id, part_id, read_seconds
from extract.crops.draw import draw_crops, facts_of
from extract.decoding import scan
from extract.decoding.frame_picking import RowPart, pick_row_frames, predecessors
from extract.decoding.inspect import VideoInfo, inspect_video
from extract.decoding.opening import open_reader
from pipeline import FeatureStore
from pipeline.errors import ManifestError
from pipeline.recipe.crops import GridPolicy, RandomPolicy
from pipeline.settings import Settings
from tests.support.extraction import tiny_recipe
from tests.support.videos import numbered_frames, write_video

MANIFEST = """path,start_s,end_s,label,split
long.mp4,1.0,2.0,a,train
long.mp4,00:00:02.5,3.5,b,test
long.mp4,3.9,,c,train
uneven.mp4,0.5,3.0,a,train
whole.mp4,,,b,test
long.mp4,9,10,c,train
gone.mp4,1,2,a,test
"""
UNEVEN_S = np.cumsum([0.0, *np.tile([0.033, 0.1, 0.4, 0.033], 12)])
DATASET = {
    "videos": "parts.csv",
    "labels": {"from": "column", "column": "label"},
    "splits": {"from": "columns"},
    "shard_rows": 3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    write_video(folder / "long.mp4", numbered_frames(130, height=40, width=64))
    write_video(folder / "uneven.mp4", numbered_frames(len(UNEVEN_S), height=40, width=64), times_s=UNEVEN_S.tolist())
    write_video(folder / "whole.mp4", numbered_frames(30, height=40, width=64))
    (folder / "parts.csv").write_text(MANIFEST)
    return folder


@pytest.fixture(scope="module")
def catalogued(data: Path, program: tuple[Path, str]) -> FeatureStore:
    store, settings = FeatureStore.create(str(data / "store")), Settings(data=data)
    run_catalog(plan_catalog(tiny_recipe(program, dataset=DATASET), store, settings), store, settings)
    return store


@pytest.fixture
def rows(catalogued: FeatureStore) -> dict[str, dict]:
    return {row["video_id"]: row for row in catalogued.dataset("set").videos.to_pylist()}


def test_ids_groups_and_facts_are_those_of_the_part(data: Path, rows: dict[str, dict]) -> None:
    assert set(rows) == {
        "long.mp4#1.000-2.000", "long.mp4#2.500-3.500", "long.mp4#3.900-", "long.mp4#9.000-10.000",
        "uneven.mp4#0.500-3.000", "whole.mp4", "gone.mp4#1.000-2.000",
    }  # fmt: skip
    first, last = rows["long.mp4#1.000-2.000"], rows["long.mp4#3.900-"]
    assert (first["group"], first["label"], dict(first["splits"])) == ("long.mp4", "a", {"1": "train"})
    assert (first["start_frame"], first["num_frames"]) == (30, 30)
    assert first["duration_s"] == pytest.approx(1.0)
    assert (last["start_frame"], last["num_frames"], last["end_s"]) == (117, 13, pytest.approx(130 / 30))
    assert first["sha256"] == last["sha256"] == inspect_video(data / "long.mp4", hash_bytes=True).sha256
    assert "the file has 4.333 s" in rows["long.mp4#9.000-10.000"]["probe_error"]
    assert "missing" in rows["gone.mp4#1.000-2.000"]["probe_error"]
    assert rows["gone.mp4#1.000-2.000"]["start_s"] == 1
    assert rows["whole.mp4"]["start_s"] is None
    uneven = rows["uneven.mp4#0.500-3.000"]
    inside = np.flatnonzero((UNEVEN_S >= 0.5) & (UNEVEN_S < 3.0))
    assert (uneven["start_frame"], uneven["num_frames"]) == (inside[0], len(inside))
    assert uneven["start_s"] == pytest.approx(UNEVEN_S[inside[0]], abs=1e-4)


POLICIES = [
    GridPolicy.model_validate({"policy": "grid", "temporal": 6, "num_frames": 4, "stride": 3, "cover_tail": True}),
    RandomPolicy.model_validate({"policy": "random", "num_crops": 24, "num_frames": 4, "stride": 2}),
    RandomPolicy.model_validate({"policy": "random", "num_crops": 24, "num_frames": 80, "stride": 2}),
    RandomPolicy.model_validate({"policy": "random", "num_frames": 90, "stride": 2, "short": "repeat_last"}),
]  # fmt: skip


@pytest.mark.parametrize("target_fps", [None, 30.0])
@pytest.mark.parametrize("policy", POLICIES, ids=["grid", "random", "loops", "holds"])
@pytest.mark.parametrize("name", ["long.mp4#1.000-2.000", "long.mp4#3.900-", "uneven.mp4#0.500-3.000"])
def test_no_crop_leaves_its_part(data, rows, policy, target_fps, name) -> None:
    row, policy = rows[name], policy.model_copy(update={"target_fps": target_fps})
    drawn = draw_crops(policy, name, facts_of(row))
    with open_reader(data / file_id(name)) as reader:
        times_s = reader.frame_times_s
    shown = pick_row_frames(drawn.geometry[drawn.valid], policy, times_s, RowPart.of(row))
    inside = range(row["start_frame"], row["start_frame"] + row["num_frames"])
    assert set(shown.reshape(-1).tolist()) <= set(inside)
    assert set(predecessors(shown, RowPart.of(row)).reshape(-1).tolist()) <= set(inside)
    assert (drawn.geometry[drawn.valid, 0] >= row["start_s"] - 1e-3).all()
    assert drawn.geometry[drawn.valid, 8].tolist() == shown[:, 0].tolist()


def test_features_of_parts_come_again_when_looked_at_again(data, catalogued, program) -> None:
    settings, recipe = Settings(data=data), tiny_recipe(program, dataset=DATASET)
    run_extract(plan_extract(recipe, catalogued, settings), catalogued, settings)
    status = {r["video_id"]: r["status"] for r in catalogued.dataset("set").status("grid", "tiny").to_pylist()}
    assert status.pop("gone.mp4#1.000-2.000") == "missing"
    assert status.pop("long.mp4#9.000-10.000") == "unreadable"
    assert set(status.values()) == {"ok"}
    report = audit(catalogued, "set", "grid", "tiny", settings, num_crops=20)
    assert report.is_ok, report.table()


def test_the_parts_of_a_file_share_one_look_into_it(data, program, tmp_path, monkeypatch) -> None:
    looked: list[Path] = []
    original = inspect_videos.DecodePool.inspect_all

    def inspect_all(self, paths, **options):
        looked.extend(paths)
        return original(self, paths, **options)

    monkeypatch.setattr(inspect_videos.DecodePool, "inspect_all", inspect_all)
    store, settings = FeatureStore.create(str(tmp_path / "s")), Settings(data=data)
    recipe = tiny_recipe(program, dataset=DATASET)
    report = run_catalog(plan_catalog(recipe, store, settings), store, settings)
    assert sorted(path.name for path in looked) == ["gone.mp4", "long.mp4", "uneven.mp4", "whole.mp4"]
    assert report.did["videos_new"] == 7
    assert plan_catalog(recipe, store, settings).num_known == 7


def test_a_part_is_found_again_after_a_move(data: Path) -> None:
    assert resolve_video("long.mp4#1.000-2.000", "file:///gone/long.mp4", Settings(data=data)) == data / "long.mp4"
    assert file_id("a#b.mp4") == "a#b.mp4"
    assert file_id(part_id("a#b.mp4", 1, None)) == "a#b.mp4"


@pytest.mark.parametrize(("text", "seconds"), [("1.5", 1.5), ("00:01:02.25", 62.25), ("1:30", 90.0), ("", None)])
def test_times_as_people_write_them(text: str, seconds: float | None) -> None:
    assert read_seconds(text, "x") == seconds


@pytest.mark.parametrize(
    "content", ["start_s,end_s\na.mp4,2,1\n", "start_s,end_s\na.mp4,x,1\n", "start,end\na.mp4,1,2\n"]
)
def test_times_that_mean_nothing_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "m.csv").write_text("path," + content)
    recipe, store = (
        tiny_recipe((tmp_path, "0" * 64), dataset={"videos": "m.csv"}),
        FeatureStore.create(str(tmp_path / "s")),
    )
    with pytest.raises(ManifestError, match=r"line 2|found start, end"):
        plan_catalog(recipe, store, Settings(data=tmp_path))


def test_a_file_that_cannot_be_read_keeps_the_bounds_asked_for() -> None:
    facts = facts_of_part(VideoInfo(error="missing: no such file"), 1.0, 2.0)
    assert (facts["start_s"], facts["end_s"], facts["duration_s"]) == (1.0, 2.0, None)


def test_a_file_is_demultiplexed_once_for_its_parts_and_again_when_it_changed(tmp_path: Path, monkeypatch) -> None:
    looked: list[Path] = []
    original = scan.look_through
    monkeypatch.setattr(
        scan, "look_through", lambda path, **options: (looked.append(path), original(path, **options))[1]
    )
    path = write_video(tmp_path / "a.mp4", numbered_frames(20))
    for _ in range(3):
        with open_reader(path) as reader:
            assert reader.num_frames == 20
            assert len(reader.read(np.arange(5, 9)).indices) == 4
    assert looked == [path]
    write_video(path, numbered_frames(25))
    with open_reader(path) as reader:
        assert reader.num_frames == 25
    assert looked == [path, path]
