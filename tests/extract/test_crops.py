"""Crop policies: inside the video, the same every time, and true to the laws they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from extract.crops.draw import draw_crops, facts_of
from extract.crops.draws import Draws
from extract.crops.policies.base import VideoFacts
from extract.crops.policies.intervals import interval_quantile, paired_starts
from pipeline.recipe import CropPolicy
from pipeline.storage.schema import GEOMETRY_COLUMNS

PARSE = TypeAdapter(CropPolicy).validate_python
POLICIES = [
    {"policy": "random"},
    {"policy": "random", "area": (0.2, 0.766), "colour": {}, "num_crops": 5},
    {"policy": "random", "interval_exponent": 2.0, "num_crops": 7},
    {"policy": "random", "target_fps": None, "num_frames": 4},
    {"policy": "grid"},
    {"policy": "grid", "cover_tail": True, "temporal": 4, "spatial": 1, "target_fps": None},
    {"policy": "dense", "num_crops": 9},
    {"policy": "dense", "num_crops": 9, "target_fps": None},
    {"policy": "frames", "temporal": 7, "spatial": 3},
    {"policy": "frames", "temporal": 5, "rate_fps": 2.5, "target_fps": None},
    {"policy": "speeds"},
    {"policy": "speeds", "target_fps": None, "crops_per_speed": 2, "speeds": (-4, 0, 3)},
    {"policy": "local_global"},
    {"policy": "local_global", "target_fps": None, "num_local": 0},
]
COLUMN = {name: k for k, name in enumerate(GEOMETRY_COLUMNS)}


def facts(num_frames: int = 300, fps: float = 30.0, width: int = 340, height: int = 256) -> VideoFacts:
    return VideoFacts(num_frames / fps, num_frames, fps, width, height)


@settings(max_examples=60, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    num_frames=st.integers(1, 2000),
    fps=st.sampled_from([5.0, 24.0, 29.97, 30.0, 60.0, 1000.0]),
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    video_id=st.text(max_size=12),
)
def test_every_crop_lies_inside_its_video(policy, num_frames, fps, width, height, video_id):
    parsed = PARSE(policy)
    video = facts(num_frames, fps, width, height)
    crops = draw_crops(parsed, video_id, video)
    g = crops.geometry.astype(np.float64)[crops.valid]
    assert crops.geometry.shape == (parsed.num_crops, 9)
    assert crops.geometry.dtype == np.float32
    assert np.isfinite(crops.geometry).all()
    boxes = g[:, 2:6]
    np.testing.assert_array_equal(boxes, np.rint(boxes))
    assert (boxes[:, 0] >= 0).all()
    assert (boxes[:, 1] >= 0).all()
    assert (boxes[:, 2] > boxes[:, 0]).all()
    assert (boxes[:, 3] > boxes[:, 1]).all()
    assert (boxes[:, 2] <= height).all()
    assert (boxes[:, 3] <= width).all()
    assert (g[:, 0] >= 0).all()
    assert (g[:, 1] >= g[:, 0]).all()
    if not crops.is_short:
        assert (g[:, 1] <= video.duration_s + 1e-3 * max(1.0, video.duration_s)).all()
    assert np.isin(g[:, 6], [0, 1]).all()
    assert ((g[:, 8] >= 0) & (g[:, 8] < num_frames)).all()
    assert not crops.geometry[~crops.valid & (crops.geometry[:, 1] == 0)].any()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_crops_every_time_and_others_for_another_video_or_seed(policy):
    parsed = PARSE(policy)
    first = draw_crops(parsed, "a/b.mp4", facts())
    np.random.seed(1)  # noqa: NPY002 - the global state must not matter
    again = draw_crops(parsed, "a/b.mp4", facts())
    np.testing.assert_array_equal(first.geometry, again.geometry)
    if policy["policy"] not in ("grid", "dense", "frames"):
        assert (draw_crops(parsed, "a/c.mp4", facts()).geometry != first.geometry).any()
        assert (draw_crops(PARSE({**policy, "seed": 1}), "a/b.mp4", facts()).geometry != first.geometry).any()


def test_draws_are_pinned_for_ever():
    """A change here would move the crops of every existing store."""
    assert Draws("geometry", 0, "a").unit(3).tolist() == [0.9955485518279324, 0.5507849083894528, 0.6031708345746939]
    crops = draw_crops(PARSE({"policy": "random"}), "a/b.mp4", facts())
    np.testing.assert_allclose(crops.geometry[0, [2, 3, 4, 5, 6, 7, 8]], [49, 117, 237, 305, 0, 4, 21])
    assert crops.geometry[0, 0] == pytest.approx(0.71, abs=0.005)


def test_weak_crops_follow_scales_recipe():
    crops = draw_crops(PARSE({"policy": "random", "num_crops": 4000}), "v", facts())
    g = crops.geometry
    sides = g[:, 4] - g[:, 2]
    np.testing.assert_array_equal(sides, g[:, 5] - g[:, 3])
    assert sides.min() == round(224 / 320 * 256)
    assert sides.max() == round(224 / 256 * 256)
    assert g[:, 6].mean() == pytest.approx(0.5, abs=0.05)
    span = (15 * 4 + 1) / 30
    assert g[:, 0].min() == pytest.approx(0, abs=0.05)
    assert g[:, 0].max() == pytest.approx(10 - span, abs=0.05)
    np.testing.assert_allclose(g[:, 0].mean(), (10 - span) / 2, rtol=0.05)
    np.testing.assert_allclose(g[:, 1] - g[:, 0], span, atol=1e-5)


def test_strong_crops_have_the_area_and_aspect_asked_for():
    policy = PARSE({"policy": "random", "area": (0.2, 0.766), "num_crops": 3000})
    g = draw_crops(policy, "v", facts(width=400, height=300)).geometry
    height, width = g[:, 4] - g[:, 2], g[:, 5] - g[:, 3]
    share, aspect = height * width / (400 * 300), width / height
    assert share.min() > 0.19
    assert share.max() < 0.78
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    np.testing.assert_allclose(share.mean(), (0.2 + 0.766) / 2, atol=0.03)


def test_a_strong_crop_of_a_very_wide_video_falls_back_to_the_centre():
    policy = PARSE({"policy": "random", "area": (0.9, 1.0), "num_crops": 20})
    g = draw_crops(policy, "v", facts(width=1000, height=100)).geometry
    np.testing.assert_array_equal(g[:, 4] - g[:, 2], 100)
    np.testing.assert_array_equal(g[:, 5] - g[:, 3], round(100 * 4 / 3))
    np.testing.assert_array_equal(g[:, 3], (1000 - 133) // 2)


def test_grid_follows_scales_code_or_covers_the_tail():
    policy = {"policy": "grid", "num_frames": 16, "stride": 4}
    g = draw_crops(PARSE(policy), "v", facts()).geometry
    latest = 10 - 61 / 30
    np.testing.assert_allclose(g[::3, 0], [latest * i / 5 for i in range(5)], rtol=1e-6)
    np.testing.assert_array_equal(g[:3, 3], [0, 42, 84])
    np.testing.assert_array_equal(g[:3, 5], [256, 298, 340])
    tail = draw_crops(PARSE({**policy, "cover_tail": True}), "v", facts()).geometry
    assert tail[0, 0] == 0
    assert tail[-1, 1] == pytest.approx(10.0)
    portrait = draw_crops(PARSE(policy), "v", facts(width=256, height=340)).geometry
    np.testing.assert_array_equal(portrait[:3, 2], [0, 42, 84])
    np.testing.assert_array_equal(portrait[:3, 3], 0)


def test_frames_follow_the_rate_and_never_come_twice():
    policy = PARSE({"policy": "frames", "rate_fps": 10, "temporal": 40, "spatial": 2})
    crops = draw_crops(policy, "v", facts(num_frames=75))
    starts = crops.geometry[:, 0][crops.valid]
    np.testing.assert_allclose(starts, np.repeat(np.arange(25) / 10, 2), atol=1e-5)
    assert not crops.is_short
    assert len(np.unique(crops.geometry[crops.valid][:, [2, 3, 4, 5]], axis=0)) == 2
    faster = PARSE({"policy": "frames", "rate_fps": 1000, "temporal": 400})
    every = draw_crops(faster, "v", facts(num_frames=75))
    assert np.diff(every.geometry[every.valid][:, 8]).tolist() == [1] * 74
    longer = draw_crops(policy, "v", facts(num_frames=3000))
    assert longer.valid.all()
    spread = longer.geometry[::2, 0]
    np.testing.assert_allclose(np.diff(spread), (100 - 1 / 30) / 39, rtol=1e-4)
    assert draw_crops(policy, "v", facts(num_frames=1)).valid.sum() == 2


def test_dense_crops_follow_the_duration():
    policy = PARSE({"policy": "dense", "num_frames": 8, "stride": 2, "num_crops": 12})
    short, long = (draw_crops(policy, "v", facts(n)) for n in (105, 3000))
    assert short.valid.sum() == 4  # 3.5 s, 0.5 s a crop: 0, 1, 2, 3
    np.testing.assert_allclose(short.geometry[:4, 0], [0, 1, 2, 3], atol=1e-6)
    assert short.geometry[3, 1] == pytest.approx(3.5)
    assert not short.geometry[4:].any()
    assert long.valid.all()
    assert long.geometry[-1, 1] == pytest.approx(100.0)
    np.testing.assert_allclose(np.diff(long.geometry[:, 0]), 99.5 / 11, rtol=1e-4)


def test_speeds_carry_their_sign_and_length():
    policy = PARSE({"policy": "speeds", "num_frames": 8, "speeds": (-4, 0, 1), "crops_per_speed": 2})
    g = draw_crops(policy, "v", facts()).geometry
    np.testing.assert_array_equal(g[:, 7], [-4, -4, 0, 0, 1, 1])
    np.testing.assert_allclose(g[:, 1] - g[:, 0], np.repeat([29 / 30, 1 / 30, 8 / 30], 2), atol=1e-5)


def test_local_and_global_windows():
    g = draw_crops(PARSE({"policy": "local_global"}), "v", facts()).geometry
    np.testing.assert_allclose(g[:2, :2], [[0, 295 / 30], [5 / 30, 10]], atol=1e-5)
    np.testing.assert_allclose(g[2:, 1] - g[2:, 0], 10 / 8, atol=1e-5)
    area = (g[:, 4] - g[:, 2]) * (g[:, 5] - g[:, 3]) / (340 * 256)
    assert (area[:2] > 0.38).all()
    assert (area[2:] < 0.42).all()


@pytest.mark.parametrize("short", ["loop", "repeat_last", "reject"])
def test_a_video_shorter_than_a_crop(short):
    crops = draw_crops(PARSE({"policy": "random", "short": short}), "v", facts(10))
    assert crops.is_short
    assert crops.valid.all() == (short != "reject")
    assert not crops.valid.any() or not crops.geometry[:, 0].any()
    exact = draw_crops(PARSE({"policy": "random", "short": short}), "v", facts(61))
    assert not exact.is_short


def test_a_video_nothing_is_known_of_has_no_crops():
    assert facts_of({"probe_error": "broken", "duration_s": None}) is None
    assert (
        facts_of({"probe_error": None, "duration_s": 1.0, "num_frames": 0, "fps": 1, "width": 1, "height": 1}) is None
    )
    crops = draw_crops(PARSE({"policy": "grid"}), "v", None)
    assert not crops.valid.any()
    assert not crops.geometry.any()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_interval_quantile_inverts_cvrls_distribution(exponent):
    p = np.linspace(0, 0.999, 50)
    u = interval_quantile(p, exponent)
    np.testing.assert_allclose(((exponent + 1) * u - u ** (exponent + 1)) / exponent, p, atol=1e-9)


def test_exponent_one_is_two_independent_uniform_starts():
    starts = paired_starts(8.0, 1.0, 20000, Draws("test")).reshape(-1, 2)
    assert ((starts >= 0) & (starts < 8)).all()
    np.testing.assert_allclose(starts.mean(axis=0), 4, atol=0.08)
    np.testing.assert_allclose(np.abs(np.diff(starts, axis=1)).mean(), 8 / 3, atol=0.06)
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.03
    near = paired_starts(8.0, 0.5, 20000, Draws("test")).reshape(-1, 2)
    assert np.abs(np.diff(near, axis=1)).mean() < 8 / 3 - 0.2
