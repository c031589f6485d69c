"""Geometry says when the frames it shows are shown, in videos whose frames are not evenly spaced too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from extract import plan_catalog, run_catalog
from extract.crops.draw import draw_crops, facts_of
from extract.decoding.frame_picking import pick_frames
from extract.decoding.opening import open_reader
from pipeline import FeatureStore
from pipeline.recipe.crops import DensePolicy, GridPolicy, RandomPolicy
from pipeline.settings import Settings
from tests.support.extraction import tiny_recipe
from tests.support.videos import frame_number, numbered_frames, write_video

GAPS_S = np.cumsum([0.0, *np.tile([0.033, 0.033, 0.1, 0.7, 0.033, 2.0], 8)])


@pytest.fixture(scope="module")
def catalogued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict]]:
    folder = tmp_path_factory.mktemp("times")
    frames = numbered_frames(len(GAPS_S))
    write_video(folder / "gaps.mp4", frames, times_s=GAPS_S.tolist())
    write_video(folder / "even.mp4", frames, fps=30000 / 1001)
    write_video(folder / "even.mkv", frames, fps=30000 / 1001)
    write_video(folder / "late.mkv", frames, times_s=(GAPS_S + 1.5).tolist())
    recipe = tiny_recipe((folder, "0" * 64), dataset={"videos": "*.*"})
    settings, store = Settings(data=folder), FeatureStore.create(str(folder / "store"))
    run_catalog(plan_catalog(recipe, store, settings), store, settings)
    return folder, {row["video_id"]: row for row in store.dataset("set").videos.to_pylist()}


def test_uneven_times_and_the_containers_start_are_catalogued(catalogued):
    _, videos = catalogued
    assert videos["even.mp4"]["frame_steps_us"] is None
    assert videos["even.mkv"]["frame_steps_us"] is None
    assert np.allclose(np.cumsum(videos["gaps.mp4"]["frame_steps_us"]) / 1e6, GAPS_S[1:], atol=1e-5)
    assert videos["gaps.mp4"]["container_start_s"] == 0
    assert videos["late.mkv"]["container_start_s"] == pytest.approx(1.5, abs=2e-3)
    assert np.allclose(np.cumsum(videos["late.mkv"]["frame_steps_us"]) / 1e6, GAPS_S[1:], atol=2e-3)


POLICIES = [
    RandomPolicy.model_validate({"policy": "random", "num_frames": 3, "stride": 2}),
    GridPolicy.model_validate({"policy": "grid", "temporal": 6, "num_frames": 3, "stride": 2, "cover_tail": True}),
    DensePolicy.model_validate({"policy": "dense", "num_frames": 3, "stride": 2, "num_crops": 40}),
]


@pytest.mark.parametrize("target_fps", [None, 30.0])
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.policy)
@pytest.mark.parametrize("name", ["gaps.mp4", "late.mkv"])
def test_start_time_and_start_frame_are_those_of_the_first_frame_shown(catalogued, policy, target_fps, name):
    folder, videos = catalogued
    policy = policy.model_copy(update={"target_fps": target_fps})
    drawn = draw_crops(policy, name, facts_of(videos[name]))
    geometry = drawn.geometry[drawn.valid]
    with open_reader(folder / name) as reader:
        times_s = reader.frame_times_s
        shown = pick_frames(geometry, policy, times_s, videos[name]["duration_s"])
        wanted = np.unique(shown[:, 0])
        decoded = reader.read(wanted)
    assert [frame_number(frame) for frame in decoded.frames] == wanted.tolist()
    assert geometry[:, 8].tolist() == shown[:, 0].tolist()
    if target_fps is None:
        assert np.allclose(geometry[:, 0], times_s[shown[:, 0]], atol=1e-5)
        ends = np.append(times_s, videos[name]["duration_s"])
        assert np.allclose(geometry[:, 1], ends[shown[:, -1] + 1], atol=1e-4)
    else:
        assert (geometry[:, 0] >= times_s[shown[:, 0]] - 2e-3).all()


def test_a_short_uneven_video_ends_after_its_end(catalogued):
    _, videos = catalogued
    policy = GridPolicy.model_validate(
        {"policy": "grid", "temporal": 1, "num_frames": 60, "target_fps": None, "stride": 1}
    )
    drawn = draw_crops(policy, "x", facts_of(videos["gaps.mp4"]))
    assert drawn.is_short
    assert drawn.geometry[0, 1] > videos["gaps.mp4"]["duration_s"]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.policy)
def test_evenly_spaced_videos_and_those_catalogued_before_keep_every_byte(catalogued, policy):
    _, videos = catalogued
    for name in ("even.mp4", "even.mkv", "gaps.mp4"):
        before = {key: value for key, value in videos[name].items() if key != "frame_steps_us"}
        same = draw_crops(policy, name, facts_of(videos[name])).geometry.tobytes()
        assert (same == draw_crops(policy, name, facts_of(before)).geometry.tobytes()) == (name != "gaps.mp4")
